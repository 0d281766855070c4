package loadbalancer

import (
	"slices"
	"time"
)

// State is what is known of a server.
type State string

// The states of a server.
const (
	// Unknown servers have not been asked yet.
	Unknown State = "unknown"
	// Healthy servers said that they are ready.
	Healthy State = "healthy"
	// Unready servers answer, but say that they are not ready: they start or end.
	Unready State = "not ready"
	// Failed servers cannot be reached, or are not of this cluster.
	Failed State = "failed"
)

// How often servers are asked. An agent with one healthy server asks nothing.
const (
	// probeHealthy is for healthy servers of several.
	probeHealthy = 30 * time.Second
	// probeFirst is the pause after a first failure; it doubles up to
	// probeAlone, or up to probeHealthy while another server is healthy.
	probeFirst = 250 * time.Millisecond
	probeAlone = 5 * time.Second
	// probeUnready is for servers that start.
	probeUnready = time.Second
	// probeDemand is how soon a failed server is asked again if somebody waits for one.
	probeDemand = time.Second
	// unreadyLimit is for how long a server that says that it is not ready
	// counts as not reached: it may be wrong about itself.
	unreadyLimit = 30 * time.Second
)

// server is what the pool knows of one server.
type server struct {
	addr     string
	state    State
	since    time.Time // of state
	asked    time.Time // the last answer or failure
	failures int       // in a row
	reason   string    // of a state that is not healthy
	suspect  bool      // to be asked at once
}

// pool decides which server is used and which are to be asked. It does no I/O
// and knows no clock; the caller serialises.
type pool struct {
	servers []*server // the order of preference
	active  string    // in use, as long as it is healthy
	// downSince is when the last usable server was lost; zero while there is one.
	downSince time.Time
}

// set replaces the list and returns the servers that are gone. What is known
// of those that stay is kept.
func (p *pool) set(addrs []string, now time.Time) (gone []string) {
	var list []*server
	for _, addr := range addrs {
		if slices.ContainsFunc(list, func(s *server) bool { return s.addr == addr }) {
			continue
		}
		s := p.get(addr)
		if s == nil {
			s = &server{addr: addr, state: Unknown, since: now}
		}
		list = append(list, s)
	}
	for _, s := range p.servers {
		if !slices.Contains(list, s) {
			gone = append(gone, s.addr)
		}
	}
	p.servers = list
	p.settle(now)
	return gone
}

func (p *pool) get(addr string) *server {
	for _, s := range p.servers {
		if s.addr == addr {
			return s
		}
	}
	return nil
}

// report takes in what a server answered (or did not) and tells whether its
// state is another one now. A server that is not in the list is ignored.
func (p *pool) report(addr string, state State, reason string, now time.Time) (changed bool) {
	s := p.get(addr)
	if s == nil {
		return false
	}
	s.asked, s.suspect, s.reason = now, false, reason
	if state == Failed {
		s.failures++
	} else {
		s.failures = 0
	}
	if changed = s.state != state; changed {
		s.state, s.since = state, now
	}
	p.settle(now)
	return changed
}

// settle makes active and downSince follow from the states.
func (p *pool) settle(now time.Time) {
	if s := p.get(p.active); s == nil || s.state != Healthy {
		p.active = ""
		for _, s := range p.servers {
			if s.state == Healthy {
				p.active = s.addr
				break
			}
		}
	}
	switch usable := len(p.candidates()) > 0; {
	case usable:
		p.downSince = time.Time{}
	case p.downSince.IsZero():
		p.downSince = now
	}
}

// candidates are the servers that a connection tries, best first: the one in
// use, other healthy ones, unknown ones, and those that are not ready. Failed
// ones are only asked by probes.
func (p *pool) candidates() []string {
	rank := func(s *server) int {
		switch {
		case s.addr == p.active:
			return 0
		case s.state == Healthy:
			return 1
		case s.state == Unknown:
			return 2
		default:
			return 3
		}
	}
	list := slices.DeleteFunc(slices.Clone(p.servers), func(s *server) bool { return s.state == Failed })
	slices.SortStableFunc(list, func(a, b *server) int { return rank(a) - rank(b) })
	addrs := make([]string, len(list))
	for i, s := range list {
		addrs[i] = s.addr
	}
	return addrs
}

// reached reports whether a server of the cluster is there.
func (p *pool) reached(now time.Time) bool {
	return slices.ContainsFunc(p.servers, func(s *server) bool {
		return s.state == Healthy || s.state == Unready && now.Sub(s.since) >= unreadyLimit
	})
}

// explored reports whether every server has been asked at least once.
func (p *pool) explored() bool {
	return !slices.ContainsFunc(p.servers, func(s *server) bool { return s.state == Unknown })
}

// abandoned are the servers that no connection should stay with: they have
// failed, and another one is healthy.
func (p *pool) abandoned() []string {
	if p.active == "" {
		return nil
	}
	var addrs []string
	for _, s := range p.servers {
		if s.state == Failed {
			addrs = append(addrs, s.addr)
		}
	}
	return addrs
}

// suspected makes a server be asked at once: something was wrong with one of
// its connections. It takes effect at most once a second.
func (p *pool) suspected(addr string, now time.Time) {
	if s := p.get(addr); s != nil && now.Sub(s.asked) >= time.Second {
		s.suspect = true
	}
}

// demanded brings forward the probes of failed servers: a client waits.
func (p *pool) demanded(now time.Time) {
	for _, s := range p.servers {
		if s.state == Failed && now.Sub(s.asked) >= probeDemand {
			s.suspect = true
		}
	}
}

// due returns the servers that are to be asked now, and how long to wait until
// the next one is; negative: for ever. Those that busy names are left out.
func (p *pool) due(now time.Time, busy func(addr string) bool) (addrs []string, wait time.Duration) {
	wait = -1
	for _, s := range p.servers {
		pause := p.pause(s)
		if busy(s.addr) || pause < 0 {
			continue
		}
		left := s.asked.Add(pause).Sub(now)
		if left <= 0 {
			addrs = append(addrs, s.addr)
		} else if wait < 0 || left < wait {
			wait = left
		}
	}
	return addrs, wait
}

// pause is how long a server is left alone; negative: for ever.
func (p *pool) pause(s *server) time.Duration {
	switch {
	case s.suspect || s.state == Unknown:
		return 0
	case s.state == Unready:
		return probeUnready
	case s.state == Failed:
		limit := probeAlone
		if p.active != "" {
			limit = probeHealthy
		}
		return min(probeFirst<<min(s.failures-1, 16), limit)
	case len(p.servers) > 1:
		return probeHealthy
	}
	return -1
}
