//! Where the names in the ignore lists led to when they were last looked up: what counts until they are looked up again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rusqlite::{Result, Row, Transaction};

use super::{Error, History};

pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS name (
    name    TEXT NOT NULL,
    address TEXT NOT NULL,
    PRIMARY KEY (name, address)
) WITHOUT ROWID;
";

impl History {
    /// Where names led to, as far as that is known.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn names(&self) -> std::result::Result<BTreeMap<String, Vec<IpAddr>>, Error> {
        let rows = || -> Result<Vec<(String, String)>> {
            let is_there = "SELECT 1 FROM sqlite_master WHERE name = 'name'";
            // One that is only read here may be an older version's.
            if !self.connection.prepare(is_there)?.exists([])? {
                return Ok(Vec::new());
            }
            let mut query = self.connection.prepare("SELECT name, address FROM name")?;
            let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
            query.query_map([], row)?.collect()
        };
        let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (name, address) in rows().map_err(|cause| self.failed("read", cause))? {
            let known = names.entry(name).or_default();
            known.extend(address.parse::<IpAddr>().ok());
        }
        Ok(names)
    }

    /// Forgets where this name led to.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_name(&mut self, name: &str) -> std::result::Result<(), Error> {
        let forget = "DELETE FROM name WHERE name = ?1";
        let done = self.connection.execute(forget, [name]);
        done.map(drop).map_err(|cause| Error::Sqlite {
            step: "write to",
            path: self.claim.path.clone(),
            cause,
        })
    }
}

pub(super) fn write(transaction: &Transaction<'_>, name: &str, addresses: &[IpAddr]) -> Result<()> {
    transaction.execute("DELETE FROM name WHERE name = ?1", [name])?;
    let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO name VALUES (?1, ?2)")?;
    for address in addresses {
        insert.execute([name, &address.to_string()])?;
    }
    Ok(())
}
