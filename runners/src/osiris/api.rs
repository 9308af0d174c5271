//! What scripts call: `osiris.model("name")` and the methods of a model.

use rhai::{Array, Dynamic, Engine, EvalAltResult, ImmutableString, Map, Module};

use super::{
    engine::session,
    filter::{Filter, Page},
    record::{Record, checked_model, failure, id_of},
};

/// The global `osiris`.
#[derive(Clone)]
struct Osiris;

/// One model of records. Nothing needs to be declared: a model begins with its first record.
#[derive(Clone)]
struct Model(ImmutableString);

type Answer<T> = Result<T, Box<EvalAltResult>>;

/// Registers everything. `osiris` is a global variable, so that functions see it too.
pub(super) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Osiris>("Osiris").register_type_with_name::<Model>("Model");
    engine.register_fn("model", |_: &mut Osiris, name: ImmutableString| -> Answer<Model> {
        checked_model(&name)?;
        Ok(Model(name))
    });
    engine
        .register_fn("create", |model: &mut Model, record: Dynamic| -> Answer<Map> {
            let map = expect_map("create", record)?;
            session(|s| s.create(&model.0, map))
        })
        .register_fn("get", |model: &mut Model, id: Dynamic| -> Answer<Dynamic> {
            let id = id_of(&id)?;
            session(|s| Ok(s.get(&model.0, &id)?.map_or(Dynamic::UNIT, Dynamic::from)))
        })
        .register_fn("update", |model: &mut Model, which: Dynamic, fields: Dynamic| -> Answer<Map> {
            let (id, map) = (id_of(&which)?, expect_map("update", fields)?);
            session(|s| s.update(&model.0, &id, |record| record.merge(map)))
        })
        .register_fn("update", |model: &mut Model, record: Dynamic| -> Answer<Map> {
            let map = expect_map("update", record)?;
            let id = id_of(&Dynamic::from(map.clone()))?;
            session(|s| s.update(&model.0, &id, |record| record.replace(map)))
        })
        .register_fn("delete", |model: &mut Model, which: Dynamic| -> Answer<bool> {
            let id = id_of(&which)?;
            session(|s| s.delete(&model.0, &id))
        });
    register_searches(engine);
    let mut globals = Module::new();
    globals.set_var("osiris", Osiris);
    engine.register_global_module(globals.into());
}

fn register_searches(engine: &mut Engine) {
    let find = |model: &Model, filter: Map, page: Page| -> Answer<Array> {
        let found = session(|s| s.find(&model.0, &Filter::new(filter), &page))?;
        Ok(found.iter().map(Record::to_map).map(Dynamic::from).collect())
    };
    engine
        .register_fn("list", move |model: &mut Model| find(model, Map::new(), Page::ALL))
        .register_fn("list", move |model: &mut Model, page: Map| find(model, Map::new(), Page::from_map(&page)?))
        .register_fn("find", move |model: &mut Model, filter: Map| find(model, filter, Page::ALL))
        .register_fn("find", move |model: &mut Model, filter: Map, page: Map| {
            find(model, filter, Page::from_map(&page)?)
        })
        .register_fn("count", |model: &mut Model| session(|s| s.count(&model.0, &Filter::default())))
        .register_fn("count", |model: &mut Model, filter: Map| session(|s| s.count(&model.0, &Filter::new(filter))));
}

fn expect_map(method: &str, value: Dynamic) -> Answer<Map> {
    let found = value.type_name();
    value.try_cast::<Map>().ok_or_else(|| {
        let hint = if found == "array" { ": loop over it" } else { "" };
        failure("INVALID_RECORD", format!("{method} takes a map of fields, not {found}{hint}"))
    })
}
