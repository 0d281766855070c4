package transfer

import (
	"bytes"
	"strconv"
)

// kine's table, as its SQLite driver makes it: one row for each revision.
const (
	kineTable = `CREATE TABLE kine (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	name TEXT,
	created INTEGER,
	deleted INTEGER,
	create_revision INTEGER,
	prev_revision INTEGER,
	lease INTEGER,
	value BLOB,
	old_value BLOB
)`
	// kineCompact is the row in which kine keeps how far it has compacted, in
	// the column prev_revision. It is not a key.
	kineCompact = "compact_rev_key"
	// kineCompactAPI is where it keeps the apiserver's key of the same name,
	// as VERSION|VALUE, since it does not count versions.
	kineCompactAPI = "compact_rev_key_apiserver"
	// compactKey is the apiserver's key.
	compactKey = "compact_rev_key"
)

func kineColumns() []string {
	return []string{"id", "name", "created", "deleted", "create_revision", "prev_revision", "lease", "value", "old_value"}
}

// kineIndices are those that kine would make at its next start.
func kineIndices() []string {
	return []string{
		"CREATE INDEX kine_name_index ON kine (name)",
		"CREATE INDEX kine_name_id_index ON kine (name,id)",
		"CREATE INDEX kine_id_deleted_index ON kine (id,deleted)",
		"CREATE INDEX kine_prev_revision_index ON kine (prev_revision)",
		"CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)",
		"CREATE INDEX kine_id_compact_rev_key_with_prev_revision_index ON kine(id, name, prev_revision)" +
			" WHERE name != 'compact_rev_key' AND prev_revision != 0",
	}
}

// splitVersion reads VERSION|VALUE; it reports false for what is something else.
// Old releases of kine stored only the version.
func splitVersion(b []byte) (version int64, value []byte, ok bool) {
	number, value, found := bytes.Cut(b, []byte("|"))
	if !found {
		value = []byte("0")
	}
	version, err := strconv.ParseInt(string(number), 10, 64)
	return version, value, err == nil && version > 0
}

func joinVersion(version int64, value []byte) []byte {
	return append(strconv.AppendInt(nil, version, 10), append([]byte("|"), value...)...)
}
