// Package tunnel is the node's end of the reverse tunnel, through which a
// server reaches a node that it cannot connect to: behind NAT, behind a
// firewall, on a mobile network.
//
// The node opens a TLS connection to the API server, shows its own certificate
// and asks for Path with "Connection: Upgrade". From the answer 101 on the
// roles are exchanged: the connection carries HTTP/2 of which the node is the
// server. Each connection that the API server wants to make is a CONNECT
// request, and the node decides (Policy) whether it makes it:
//
//	API server                                node
//	    │ ◀── TLS, GET /v1-limpet/tunnel ──────── │
//	    │ ─── 101 Switching Protocols ──────────▶ │
//	    │ ─── CONNECT n2:10250 ─────────────────▶ │ ──▶ kubelet
//	    │ ─── CONNECT 10.42.1.7:8443 ───────────▶ │ ──▶ pod
//
// HTTP/2 brings what such a tunnel needs, in the form that the standard
// library maintains: streams with a flow control of their own, so that one slow
// reader does not hold up the others, limits, pings that double as the
// keep-alive of NAT mappings, and errors that arrive where they are to be seen.
// Inside of a stream is whatever the API server speaks with the kubelet, TLS
// and all: the tunnel trusts nobody with its content.
package tunnel

import "time"

const (
	// Path is where the API server takes tunnels.
	Path = "/v1-limpet/tunnel"
	// Protocol is the value of the Upgrade header.
	Protocol = "limpet-tunnel/1"
	// ServerHeader is the header of a server's answer that identifies its process.
	ServerHeader = "Limpet-Server"
	// ConnectedHeader is the header of a node's request that names the servers it has a
	// tunnel to, separated by commas. A server that finds itself there, because
	// the node knows it by two addresses, refuses with 409 Conflict: a second
	// tunnel would replace the first.
	ConnectedHeader = "Limpet-Connected"
	// Name is the component's name on both sides.
	Name = "tunnel"
)

// Both sides send a ping on a connection that has been silent for PingAfter,
// and give it up when there is no answer within PingTimeout. 30 seconds is less
// than any NAT forgets a TCP connection in, and one small packet each way is
// all that an idle tunnel costs.
const (
	PingAfter   = 30 * time.Second
	PingTimeout = 10 * time.Second
	// WriteTimeout ends a connection that has not taken a byte for so long.
	WriteTimeout = 30 * time.Second
)

const (
	// MaxStreams bounds the connections through one tunnel at a time.
	MaxStreams = 250
	// StreamBuffer bounds, in bytes, what is held for a stream whose reader is
	// slow; over a round trip of 50 ms it allows 10 MB/s.
	StreamBuffer = 512 << 10
	// ConnectionBuffer is so large that slow readers of some streams never use up
	// what the others share.
	ConnectionBuffer = MaxStreams * StreamBuffer
	// CopyBuffer is the size of the pieces in which data is passed on, in bytes.
	CopyBuffer = 32 << 10
)

// DialTimeout is how long the node tries to reach the kubelet or a pod. The
// server waits for a little longer.
const DialTimeout = 10 * time.Second
