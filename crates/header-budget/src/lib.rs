//! HeaderBudgetLayer learns headroom from the rate-limit headers of the Claude API.
