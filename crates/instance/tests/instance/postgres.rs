//! The instance on PostgreSQL: the same scenarios, each group at once on a real server, each scenario on a database of its
//! own.

use crate::scenarios::support::Place;
use crate::scenarios::{Canaries, for_each_scenario};
use midward_fakes::postgres::Postgres;
use tokio::task::LocalSet;

macro_rules! groups_on_postgres {
    ($($group:ident: { $($scenario:ident,)* })*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $group() {
            let server = Postgres::start_without_fsync().expect("a server");
            let local = LocalSet::new();
            let mut running = Vec::new();
            $({
                let place = Place::postgres(&server.new_database().expect("a database"));
                running.push((stringify!($scenario), local.spawn_local(crate::scenarios::$scenario(place))));
            })*
            local.await;
            for (name, task) in running {
                assert!(task.await.is_ok(), "{name}");
            }
        })*
    };
}

for_each_scenario!(groups_on_postgres);

#[tokio::test(flavor = "multi_thread")]
async fn no_table_and_no_log_holds_a_call_or_an_answer_in_the_clear() {
    for key in [None, Some(7)] {
        let server = Postgres::start().expect("a server");
        let mut place = Place::postgres(&server.new_database().expect("a database"));
        key.map(|key| place.encrypt(key));
        let (instance, canaries) = Canaries::send(&mut place).await;
        sqlx::query("CHECKPOINT").execute(&place.database().await).await.expect("all of it is in its file");
        let found = canaries.found_in(server.data());
        assert_eq!(found, if key.is_none() { canaries.names() } else { Vec::new() }, "{key:?}");
        instance.stop().await;
    }
}
