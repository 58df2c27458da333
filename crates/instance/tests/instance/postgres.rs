//! The instance on PostgreSQL: the same scenarios, each on a database of its own in one real server.

use crate::scenarios::for_each_scenario;
use crate::scenarios::support::Place;
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
