//! The instance on PostgreSQL: the same scenarios, each on a database of its own in one real server.

use crate::scenarios::support::Place;
use crate::scenarios::{Canaries, for_each_scenario};
use midward_fakes::postgres::Postgres;

macro_rules! all_on_postgres {
    ($($scenario:ident,)*) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn every_scenario_holds() {
            let server = Postgres::start().expect("a server");
            let mut running = Vec::new();
            $({
                let place = Place::postgres(&server.new_database().expect("a database"));
                running.push((stringify!($scenario), tokio::spawn(crate::scenarios::$scenario(place))));
            })*
            for (name, task) in running {
                assert!(task.await.is_ok(), "{name}");
            }
        }
    };
}

for_each_scenario!(all_on_postgres);

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
