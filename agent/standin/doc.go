// Package standin lets a node that starts while its server is away run the pods
// that it ran before.
//
// In normal operation it is beside the traffic: the node's components talk to the
// server. Only the [Recorder] listens in: it watches what a restart of the node
// needs and keeps it in a file (package journal).
//
// A [Server] is an API server made of upstream's own request handlers over that
// record. It answers the node's components, and nobody else, from the moment they
// start until this process has reached a real server for the first time; then it
// closes every connection and is gone for good. What components write to it (the
// Node's status, pods' status, leases) lives in memory and is forgotten: the
// components report to the real server again.
//
//	kubelet, kube-proxy, flannel, DNS ──▶ 127.0.0.1:6444 ──▶ server
//	                                            │ none reached yet
//	                                            └──────────▶ Server ◀── journal ◀── Recorder
package standin
