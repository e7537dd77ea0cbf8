//! A database with a long past, made in seconds.
//!
//! One run is made the true way, by a whole yard, and then copied row by row inside the
//! database with its ids, names and times moved on. Columns that are not named here are
//! copied as they are, so the copies stay true when the schema grows.

use std::path::Path;

use mergeyard_testkit::yard::{TestYard, two_services};
use mergeyard_types::Timestamp;
use sqlx::{
    AssertSqlSafe, Connection, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::Failed;

const TABLES: [&str; 6] = ["runs", "deliveries", "workflows", "steps", "effects", "images"];

/// Runs come this far apart.
const APART: i64 = 60_000;

/// Older deliveries have lost their bodies to the retention time.
const WITH_BODY: i64 = 1000;

/// Makes `file` a database of `runs` past runs, each of two workflows that published an image.
pub(crate) async fn past(file: &Path, runs: i64) -> Result<(), Failed> {
    template(file).await?;
    let options = SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Off)
        .synchronous(SqliteSynchronous::Off)
        .foreign_keys(false)
        .pragma("cache_size", "-262144");
    let mut database = SqliteConnection::connect_with(&options).await?;
    let begin = Timestamp::now().0 - runs * APART;
    let first: i64 = sqlx::query("SELECT created FROM runs").fetch_one(&mut database).await?.get(0);
    let counts = counts(&mut database).await?;
    for table in TABLES {
        let columns = columns(&mut database, table).await?;
        let values: Vec<String> =
            columns.iter().map(|column| value(table, column, &counts, begin - first, runs)).collect();
        let copy = format!(
            "WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n + 1 < {runs}) \
             INSERT INTO {table} ({}) SELECT {} FROM copies, (SELECT * FROM {table}) AS t",
            columns.join(", "),
            values.join(", ")
        );
        sqlx::query(AssertSqlSafe(copy)).execute(&mut database).await?;
    }
    database.close().await?;
    Ok(())
}

/// One run as a server leaves it, whole in one file.
async fn template(file: &Path) -> Result<(), Failed> {
    let yard = TestYard::with(two_services("0.1.0"), |_| {}).await;
    yard.send("template", "pull_request", &yard.merged(&yard.first)).await;
    yard.settle().await;
    let source = yard.folder().join("data/mergeyard.sqlite");
    let mut database = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(source)).await?;
    let copy = format!("VACUUM INTO '{}'", file.display());
    sqlx::query(AssertSqlSafe(copy)).execute(&mut database).await?;
    database.close().await?;
    yard.close().await;
    Ok(())
}

/// How many rows of each table belong to one run.
async fn counts(database: &mut SqliteConnection) -> Result<Vec<(&'static str, i64)>, Failed> {
    let mut counts = Vec::new();
    for table in TABLES {
        let query = format!("SELECT max(id), count(*) FROM {table}");
        let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut *database).await?;
        let (largest, count): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if largest != count {
            return Err(format!("the ids of the template's {table} have gaps").into());
        }
        counts.push((table, count));
    }
    Ok(counts)
}

async fn columns(database: &mut SqliteConnection, table: &str) -> Result<Vec<String>, Failed> {
    let rows = sqlx::query("SELECT name FROM pragma_table_info(?)").bind(table).fetch_all(database).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The column of copy `n` of the template's row `t`.
fn value(table: &str, column: &str, counts: &[(&str, i64)], later: i64, runs: i64) -> String {
    let of = |name: &str| counts.iter().find(|(table, _)| *table == name).map_or(1, |(_, count)| *count);
    match column {
        "id" => format!("t.id + n * {}", of(table)),
        "run" => format!("t.run + n * {}", of("runs")),
        "workflow" => format!("t.workflow + n * {}", of("workflows")),
        "step" => format!("t.step + n * {}", of("steps")),
        "guid" | "delivery" | "key" => format!("t.{column} || '-' || n"),
        "repo" | "known_as" => format!("t.{column} || '-' || (n % 50)"),
        "commit_sha" => "printf('%040x', n)".to_owned(),
        "digest" => "printf('sha256:%064x', n)".to_owned(),
        "version" => "'0.1.' || n".to_owned(),
        "number" => "n".to_owned(),
        "body" => format!("iif(n >= {runs} - {WITH_BODY}, t.body, NULL)"),
        "merged" | "created" | "received" | "started" | "finished" | "published" | "not_before" => {
            format!("t.{column} + {later} + n * {APART}")
        }
        other => format!("t.{other}"),
    }
}
