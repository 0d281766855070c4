package status

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Tunnel is a reverse tunnel: on an agent one to a server, on a server one of a node.
type Tunnel struct {
	// Peer is the server, as HOST:PORT, or the name of the node.
	Peer string `json:"peer"`
	// Remote is the address that a node comes from.
	Remote    string `json:"remote,omitempty"`
	Connected bool   `json:"connected"`
	// Since is when Connected became what it is.
	Since time.Time `json:"since"`
	// Connections are those that a node's tunnel carries now.
	Connections int `json:"connections,omitempty"`
	// Error is why the tunnel is not connected.
	Error string `json:"error,omitempty"`
}

// tunnelProblems has one only if there is no tunnel at all: a server may have
// addresses that this node cannot reach.
func tunnelProblems(list []Tunnel) []string {
	var problems []string
	for _, t := range list {
		if t.Connected {
			return nil
		}
		problems = append(problems, fmt.Sprintf("no tunnel to server %s: %s", t.Peer, t.Error))
	}
	return problems
}

func writeTunnels(w io.Writer, r Report) {
	var peers []string
	for _, t := range r.Tunnels {
		if t.Connected {
			peers = append(peers, t.Peer)
		}
	}
	if len(peers) > 0 {
		fmt.Fprintf(w, "\nTunnels: %d (%s)\n", len(peers), strings.Join(peers, ", "))
	}
}
