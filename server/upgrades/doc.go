// Package upgrades upgrades agents from the server: one after another, as an
// UpgradePlan (upgradeplans.limpet.io) says.
//
// The server is upgraded by `limpet upgrade` on its own machine, and agents follow;
// none of them may be newer than the server. The controller asks an agent by an
// annotation on its Node (internal/nodeupgrade); the agent gets and verifies the
// release, has itself replaced with a way back (internal/upgrade), and reports in
// another annotation.
//
// What happens next is decided by decide, from nothing but the plans and Nodes
// that were read, without I/O. That a node has its turn is first written to the
// plan's status, against the version of the plan that was read, and acted upon when
// it is read back: however stale what a pass reads is, two passes cannot begin with
// two nodes. All else can be repeated.
//
//	             ┌──────────┐      ┌───────────┐      ┌──────────┐
//	Pending ────▶│ Draining │─────▶│ Upgrading │─────▶│ Upgraded │
//	   │  turn   └──────────┘      └───────────┘      └──────────┘
//	   │              │ not in time      │ the agent refused, or is back to the old version
//	   │ server       └──────▶ Failed ◀──┘    (the plan stops here)
//	   ▼
//	Skipped
package upgrades
