// Package transfer moves a cluster's datastore house: from kine (k3s) and etcd
// to Limpet, and back.
//
// What moves is the newest version of every key, with its revisions, and the
// leases. The history stays behind, so at the destination everything before the
// present revision counts as compacted: clients that want it list again.
//
// # Revisions
//
// A resourceVersion that a client knows must never come to mean something else.
// So keys keep their revisions, and an import continues with a revision well
// above the source's (Options.Margin): the source may have gone on after it was
// read, or lost its last commits in a power cut.
//
// # What holds
//
//   - The source is only read. For an import it is read at one revision, also
//     while it is in use.
//   - The destination is written in a directory of its own beside it, read back
//     and compared, and renamed when it is complete and on the disk. Until then,
//     and after any error, what was there before is untouched, and nothing else
//     is left behind. (A process that is killed leaves ".NAME.new-…".)
//   - A destination that exists is refused, or on demand kept under another
//     name. It is never deleted.
package transfer
