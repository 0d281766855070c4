package status

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTunnels(t *testing.T) {
	t.Parallel()
	up := Tunnel{Peer: "10.0.0.1:6443", Connected: true}
	down := Tunnel{Peer: "203.0.113.1:6443", Error: "connection refused"}
	for _, test := range []struct {
		tunnels  []Tunnel
		problems []string
		line     string
	}{
		{},
		{tunnels: []Tunnel{up}, line: "Tunnels: 1 (10.0.0.1:6443)"},
		{tunnels: []Tunnel{down, up}, line: "Tunnels: 1 (10.0.0.1:6443)"},
		{tunnels: []Tunnel{down}, problems: []string{"no tunnel to server 203.0.113.1:6443: connection refused"}},
	} {
		r := Report{Tunnels: test.tunnels}
		if got := r.Problems(); !slices.Equal(got, test.problems) {
			t.Errorf("%+v: problems %q, want %q", test.tunnels, got, test.problems)
		}
		var b strings.Builder
		if err := r.write(&b, time.Now()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), test.line) || test.line == "" && strings.Contains(b.String(), "Tunnels:") {
			t.Errorf("%+v: printed %q", test.tunnels, b.String())
		}
	}
}
