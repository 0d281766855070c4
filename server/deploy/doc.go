// Package deploy keeps the objects of manifest files in the cluster: those that
// are embedded in the program, and those that users put into the manifests
// directory (<data>/server/manifests).
//
// # What a user can rely on
//
// Every .yaml, .yml and .json file in the directory and its sub-directories is
// applied by server-side apply (field manager "limpet", conflicts forced) within
// a second of its last change, and once at every start, which puts back what was
// deleted or changed by hand meanwhile; an object that is as it should be costs
// no write. Touching a file applies it again.
//
// An object that vanishes from its file is deleted once the rest of the file is
// applied, and with a file all its objects go, also when the file was removed
// while limpet was not running. Only objects that still carry the annotation
// limpet.io/manifest with that file's name are deleted: taking it off an object
// keeps the object. So does any doubt: nothing is deleted because of a file that
// cannot be read or parsed, that someone is still writing, or that is empty (as
// files are after a power cut), nor when the whole directory is missing.
//
// An empty FILE.skip beside FILE leaves the objects of FILE alone, whether FILE
// is in the directory or embedded. Hidden files and editors' backups are ignored.
//
// A broken file stops no other. What is wrong is told by Status, as Events on the
// file's record, and in the log; what can heal is tried again with back-off.
//
// # How it works
//
// One goroutine recomputes everything after each change: scan reads the files,
// [plan] compares them with the records, execute makes the difference true. A
// record is one ConfigMap per file in kube-system, labelled limpet.io/manifest,
// that lists the file's objects. It is written before the objects are, so
// wherever the process is killed, nothing exists that no record knows.
package deploy
