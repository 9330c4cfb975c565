//! The configured stand-ins.

use tower_claude_wire::{Model, ModelCatalog};

use crate::chains::ChainTable;

fn chains() -> ChainTable {
    let catalog = ModelCatalog::builtin();
    let mut chains = ChainTable::new(["claude-sonnet-5-5", "claude-haiku-5-5"], catalog);
    chains.insert("claude-opus-5-5", ["claude-opus-4-8"], catalog);
    chains.insert("claude-fable-5", [""; 0], catalog);
    chains
}

fn of(chains: &ChainTable, model: &str, catalog: &ModelCatalog) -> Option<Vec<String>> {
    let list = chains.list(chains.of(model, catalog)?);
    Some(list.iter().map(|target| target.model.to_string()).collect())
}

#[test]
fn chain_of_a_model_replaces_the_common_one() {
    let chains = chains();
    let of = |model| of(&chains, model, ModelCatalog::builtin());
    assert_eq!(of("claude-opus-5-5").unwrap(), ["claude-opus-4-8"]);
    assert_eq!(of("claude-fable-5"), None);
    for model in ["claude-opus-4-8", "my-own-model", "claude-sonnet-5-5"] {
        let common = of(model).unwrap();
        assert_eq!(common, ["claude-sonnet-5-5", "claude-haiku-5-5"]);
    }
    // With a cloud prefix.
    let prefixed = of("us.anthropic.claude-opus-5-5-v1:0").unwrap();
    assert_eq!(prefixed, ["claude-opus-4-8"]);
}

/// The catalogue lists neither retired models nor newer ones.
#[test]
fn chain_of_an_unlisted_model_holds_for_all_its_names() {
    let catalog = ModelCatalog::builtin();
    let gone = "claude-opus-4-1-20250805";
    let mut chains = ChainTable::new(["claude-sonnet-5-5", "claude-haiku-5-5"], catalog);
    chains.insert(gone, ["claude-opus-4-8"], catalog);
    chains.insert("claude-opus-9", [""; 0], catalog);
    for model in [gone, "claude-opus-4-1", "anthropic.claude-opus-4-1-v1:0"] {
        let own = of(&chains, model, catalog);
        assert_eq!(own.unwrap(), ["claude-opus-4-8"], "{model}");
    }
    assert_eq!(of(&chains, "claude-opus-9-20290101", catalog), None);
    let chains = ChainTable::new(["claude-opus-9"], catalog);
    assert_eq!(of(&chains, "claude-opus-9-20290101", catalog), None);
}

#[test]
fn model_alone_in_its_chain_has_no_chain() {
    let catalog = ModelCatalog::builtin();
    let chains = ChainTable::new(["claude-sonnet-5-5"], catalog);
    assert_eq!(of(&chains, "claude-sonnet-5-5", catalog), None);
    assert!(of(&chains, "claude-haiku-5-5", catalog).is_some());
    let chains = ChainTable::new([""; 0], catalog);
    assert_eq!(of(&chains, "claude-haiku-5-5", catalog), None);
}

#[test]
fn long_list_is_cut_after_16_different_models() {
    let catalog = ModelCatalog::builtin();
    let names = (0..40).map(|number| format!("model-{}", number / 2));
    let chains = ChainTable::new(names, catalog);
    let list = of(&chains, "claude-haiku-5-5", catalog).unwrap();
    assert_eq!(list.len(), 16);
    assert_eq!(list[15], "model-15");
}

#[test]
fn other_catalogue_resolves_names_again() {
    let mut chains = chains();
    let mut alias = Model::new("claude-opus-5-5");
    alias.rate_group = "mine".into();
    let catalog = ModelCatalog::builtin()
        .clone()
        .with_model("the-best", alias.clone())
        .with_model("claude-opus-4-8", {
            let mut model = Model::new("claude-opus-4-8");
            model.rate_group = "mine".into();
            model
        });
    assert!(of(&chains, "the-best", &catalog).is_some());
    chains.resolve(&catalog);
    let list = chains.list(chains.of("the-best", &catalog).unwrap());
    assert_eq!(
        (&*list[0].model, &*list[0].group),
        ("claude-opus-4-8", "mine")
    );
    assert_eq!(of(&chains, "claude-fable-5", &catalog), None);
}

#[test]
fn other_name_of_a_model_is_not_its_stand_in() {
    let mut chains = ChainTable::new(["the-best", "claude-opus-5-5"], ModelCatalog::builtin());
    let alias = Model::new("claude-opus-5-5");
    let catalog = ModelCatalog::builtin()
        .clone()
        .with_model("the-best", alias);
    chains.resolve(&catalog);
    assert_eq!(of(&chains, "claude-opus-5-5", &catalog), None);
    let once = of(&chains, "claude-sonnet-5-5", &catalog).unwrap();
    assert_eq!(once, ["the-best"]);
}
