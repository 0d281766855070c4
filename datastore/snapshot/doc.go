// Package snapshot keeps copies of the datastore, in a local directory and in
// an S3 bucket, and puts one back when the datastore is lost.
//
// A snapshot is one file that can be carried around:
//
//	limpet-NODE-TIME-REVISION.db.zst
//
//	┌ zstd skippable frame ───────────┐┌ zstd frame ──────────────────┐
//	│ manifest (JSON), and its sha256 ││ the SQLite database          │
//	└─────────────────────────────────┘└──────────────────────────────┘
//
// The manifest says what the database has to be: its size and sha256, how many
// keys, at which revision. It is in the file, since a second file beside it
// gets lost; it is in front, so that a list reads a few hundred bytes of each
// (from a bucket as well); and `zstd -d` skips it, so that the database can be
// had without Limpet.
//
// # What holds
//
//   - A file that has a snapshot's name is complete, on the disk, and was good:
//     the copy was checked by SQLite, compressed, and what was compressed was
//     read back and compared.
//   - No snapshot is deleted before a newer one is in its place, and retention
//     deletes only what it made itself: snapshots of the same node, of the same
//     database, for the same reason. Those that cannot be read stay: they may
//     be of a newer version.
//   - Snapshots of a database are ordered by revision, then by time. Revisions
//     only grow, also across restores, while the clock of a machine without a
//     battery starts anywhere. Revisions of different databases cannot be
//     compared: after a new start with an empty datastore the old snapshots
//     would push out all new ones. So each manifest names its database (by
//     when it was made), and those of others do not count.
//   - A restore verifies first. The old files are kept aside. Cut off anywhere,
//     the old datastore is there or the new one is: see sqlog.Replace.
//   - A restored datastore goes on at a revision that no client has seen, with
//     everything before compacted, so that all clients list again. See
//     RevisionGap.
//   - What fails leaves no files. What was cut off is removed by the next one.
//
// One process at a time works on a directory: it holds a lock on DIR/.lock.
// Temporary files are in DIR/.tmp-*; with the lock held, those of others are
// leftovers.
package snapshot
