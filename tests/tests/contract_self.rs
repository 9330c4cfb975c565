//! The contract suite itself: it passes where it should, and each check can fail.

use tower_layer::Identity;

tower_claude_tests::contract!(Identity::new(), stateless);
