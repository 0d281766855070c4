// Package sqlog stores the history of a revisioned key-value store (etcd's
// model) as an append-only log in one SQLite file.
//
// The state of the store lives in its user's memory; this package makes every
// change durable, hands all of it back at the next start, and serves what is
// too large or too old for memory. It is made for flash storage on small
// machines, so the aim is few dirty pages for each commit.
//
// # Layout
//
//	meta(name, value)                                              a few numbers
//	log(id, prev, key, create_rev, version, lease, value)          one row for each change
//	lease(id, ttl)
//
// A row's id is its revision and its place in that revision (see ID), so the
// log is sorted by time and an append touches only the right edge of one
// B-tree: usually one page. The key's name stands in the row; a table of keys
// and an index of names would make each new key dirty pages in random places.
// Nothing else is written for a commit: the revision follows from the last row.
//
// A row of version 0 is a tombstone: the key was deleted. prev is the id of the
// row that a row supersedes, and is all that compaction needs to know.
//
// # What holds
//
//   - Commit is atomic and durable when it returns nil (WAL, synchronous=FULL).
//     When it fails, nothing of the batch is visible, now or after a restart.
//     One exception is left: if the disk refused the final fsync and the
//     machine dies before the next commit, the batch may be found complete.
//   - Ids only grow, and no revision is ever given out twice. A start that was
//     not preceded by Close may have lost commits (disks lie, images are
//     restored), so Open skips Options.Margin revisions, and says that all
//     before are compacted: clients that have seen lost revisions list again.
//   - Sweep deletes only rows that nobody may ask for any more. Its progress is
//     stored with its deletions; it can be cut off anywhere.
//   - What cannot be used (damaged, of another program, of a newer version) is
//     not changed in any way: Open looks at it through a read-only connection.
//   - A database that exists but is empty is damaged, not new: a file lost its
//     content, and starting with an empty store would hide that. New databases
//     are made under another name and renamed when they are complete.
//   - Nothing runs while nobody calls: no ticker, no polling.
//
// # Damage
//
// After an unclean start PRAGMA quick_check reads the whole file before anything
// else. For each 100 MB that is about 0.5 s with the file in the page cache (see
// BenchmarkWhole), plus the time that the disk needs to read it. After a clean
// stop it is skipped; damage is then found when the pages are read. SQLite keeps no
// checksum of pages, so a bit that flips inside of a value stays unnoticed.
//
// # Connections
//
// One connection writes, one reads, one checkpoints; each is used by one
// goroutine at a time. A backup opens its own, for as long as it takes. SQLite's
// locks are POSIX locks, which the kernel drops when the process closes any
// descriptor of the file: nothing in this process may open the database file
// by itself while a Log is open.
package sqlog
