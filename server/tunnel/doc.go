// Package tunnel is the server's end of the reverse tunnel: it takes the
// connections that nodes open (see package agent/tunnel for what they carry)
// and gives the API server a dialer that leads through them.
//
//	kubelet client ─┐
//	pod, Service,   ├─▶ Hub.DialContext ─▶ route ─▶ a node with a tunnel ─▶ CONNECT
//	node proxy      │                          └──▶ anything else ────────▶ TCP
//	webhooks, APIs ─┘
//
// A tunnel that is there is used, also for nodes that could be reached
// directly: a node has one way then, which works or does not, whatever is
// between; it costs a fraction of a millisecond where the direct way is short.
// While there is none, the direct way is tried, and a tunnel that comes up in
// the meantime takes over.
package tunnel
