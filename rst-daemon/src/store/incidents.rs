//! Incidents in the store: a few columns to search by, and the whole as JSON.

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};

use super::database::nanoseconds;
use crate::incident::Incident;
use crate::text;

/// An incident as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its own, for ever.
    pub id: String,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it was closed; `None` while it is open.
    pub closed: Option<Timestamp>,
    /// Name of the workload as in the metrics.
    pub workload: String,
    /// Label of the cause.
    pub cause: String,
    /// All of it.
    pub json: String,
}

impl Row {
    /// What becomes of an incident.
    pub(super) fn of(incident: &Incident) -> serde_json::Result<Self> {
        Ok(Self {
            id: incident.id.clone(),
            opened: incident.opened,
            closed: incident.closed,
            workload: text::safe(&incident.workload),
            cause: incident.cause.clone(),
            json: text::json(incident)?,
        })
    }
}

/// Writes an incident: a new one, or what has become of one that is there.
pub fn put(connection: &Connection, incident: &Row) -> rusqlite::Result<()> {
    let Row {
        id,
        opened,
        closed,
        workload,
        cause,
        json,
    } = incident;
    connection
        .prepare_cached(
            "INSERT INTO incidents (id, opened_ns, closed_ns, workload, cause, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (id) DO UPDATE SET opened_ns = excluded.opened_ns,
                 closed_ns = excluded.closed_ns, workload = excluded.workload,
                 cause = excluded.cause, json = excluded.json",
        )?
        .execute(params![
            id,
            nanoseconds(*opened),
            closed.map(nanoseconds),
            workload,
            cause,
            json
        ])?;
    Ok(())
}

/// The incident of this id.
pub fn get(connection: &Connection, id: &str) -> rusqlite::Result<Option<Row>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM incidents WHERE id = ?1"))?
        .query_row([id], read)
        .optional()
}

/// The newest `limit` incidents that were open at some time from `since` on, the
/// oldest of them first.
pub fn newest(connection: &Connection, since: Timestamp, limit: u32) -> rusqlite::Result<Vec<Row>> {
    let values = [
        Value::Integer(nanoseconds(since)),
        Value::Integer(limit.into()),
    ];
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM incidents WHERE closed_ns IS NULL OR closed_ns >= ?1
         ORDER BY opened_ns DESC, id DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params_from_iter(values), read)?;
    let mut incidents = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    incidents.reverse();
    Ok(incidents)
}

/// Deletes those that were closed before `before`; how many.
pub(super) fn delete_closed(connection: &Connection, before: i64) -> rusqlite::Result<usize> {
    connection
        .prepare_cached("DELETE FROM incidents WHERE closed_ns < ?1")?
        .execute([before])
}

const COLUMNS: &str = "id, opened_ns, closed_ns, workload, cause, json";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let time = |ns: i64| Timestamp::from_nanosecond(ns.into()).unwrap_or_default();
    Ok(Row {
        id: row.get(0)?,
        opened: time(row.get(1)?),
        closed: row.get::<_, Option<i64>>(2)?.map(time),
        workload: row.get(3)?,
        cause: row.get(4)?,
        json: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::schema;

    fn incident(id: &str, opened: &str, closed: Option<&str>) -> Row {
        let json = json!({"v": 1, "id": id, "resets": 57});
        Row {
            id: id.into(),
            opened: opened.parse().unwrap(),
            closed: closed.map(|time| time.parse().unwrap()),
            workload: "nginx.service".into(),
            cause: "refused".into(),
            json: json.to_string(),
        }
    }

    fn memory() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    #[test]
    fn an_incident_is_opened_and_closed() {
        let connection = memory();
        let open = incident("1", "2026-11-20T14:00:00Z", None);
        put(&connection, &open).unwrap();
        assert_eq!(get(&connection, "1").unwrap(), Some(open));
        let closed = incident("1", "2026-11-20T14:00:00Z", Some("2026-11-20T14:05:00Z"));
        put(&connection, &closed).unwrap();
        assert_eq!(get(&connection, "1").unwrap(), Some(closed.clone()));
        assert_eq!(get(&connection, "2").unwrap(), None);
        let cause: String = connection
            .query_row("SELECT json ->> 'resets' FROM incidents", [], |row| {
                row.get::<_, i64>(0).map(|number| number.to_string())
            })
            .unwrap();
        assert_eq!(cause, "57");
    }

    #[test]
    fn the_newest_come_last_and_open_ones_always() {
        let connection = memory();
        let long = incident("a", "2026-11-20T10:00:00Z", None);
        let old = incident("b", "2026-11-20T11:00:00Z", Some("2026-11-20T11:05:00Z"));
        let new = incident("c", "2026-11-20T12:00:00Z", Some("2026-11-20T12:05:00Z"));
        for incident in [&new, &old, &long] {
            put(&connection, incident).unwrap();
        }
        let since = |time: &str, limit| newest(&connection, time.parse().unwrap(), limit).unwrap();
        assert_eq!(
            since("2026-11-20T12:00:00Z", 9),
            [long.clone(), new.clone()]
        );
        assert_eq!(
            since("2026-11-20T12:05:01Z", 9),
            std::slice::from_ref(&long)
        );
        assert_eq!(since("2026-11-20T00:00:00Z", 2), [old.clone(), new.clone()]);
        let deleted = delete_closed(&connection, nanoseconds(new.opened)).unwrap();
        assert_eq!(deleted, 1);
        assert_eq!(since("2026-11-20T00:00:00Z", 9), [long, new]);
    }
}
