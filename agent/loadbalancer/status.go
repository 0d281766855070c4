package loadbalancer

import "time"

// Status is the state of the balancer for `limpet status`.
type Status struct {
	Listen  string         `json:"listen"`
	Servers []ServerStatus `json:"servers"`
	// Reached is whether this process has ever reached a server.
	Reached bool `json:"reached"`
	// StandIn is true while connections go to the API server inside the process.
	StandIn bool `json:"standIn,omitempty"`
	// Connections are all that are open, waiting ones included.
	Connections int `json:"connections"`
}

// ServerStatus is the state of one server.
type ServerStatus struct {
	Address string `json:"address"`
	State   State  `json:"state"`
	// Since is when the state began.
	Since time.Time `json:"since"`
	// Active is the server that new connections go to.
	Active bool `json:"active,omitempty"`
	// Reason is why the server is failed or not ready.
	Reason      string `json:"reason,omitempty"`
	Connections int    `json:"connections"`
}

// Status returns a copy of the present state.
func (b *Balancer) Status() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	count := map[string]int{}
	for l := range b.links {
		count[l.addr]++
	}
	s := Status{
		Listen: b.opts.Listen, Reached: b.hasReached(),
		Servers: make([]ServerStatus, len(b.pool.servers)), Connections: len(b.links),
	}
	s.StandIn = b.opts.StandIn != nil && !s.Reached
	for i, srv := range b.pool.servers {
		s.Servers[i] = ServerStatus{
			Address: srv.addr, State: srv.state, Since: srv.since, Active: srv.addr == b.pool.active,
			Reason: srv.reason, Connections: count[srv.addr],
		}
	}
	return s
}
