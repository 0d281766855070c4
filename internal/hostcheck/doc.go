// Package hostcheck looks at the machine limpet runs on.
//
// [Detect] is the cheap look that a starting node takes to choose its settings
// (cgroup version, capabilities, limits). [Run] is the thorough one behind
// `limpet check-config`: it gathers facts, judges them, and tells the user what
// to do about each one that is wrong.
//
// Gathering (gather*.go, probe*.go) does I/O and never judges; judging
// (judge*.go) is pure.
package hostcheck
