package status

import (
	"fmt"
	"io"
	"time"
)

// APIServer is a server as an agent's load balancer sees it.
type APIServer struct {
	Address string    `json:"address"`
	State   string    `json:"state"`
	Since   time.Time `json:"since"`
	// Active is the one that new connections go to.
	Active bool   `json:"active,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Certificate is one with which a part of the node shows who it is.
type Certificate struct {
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"`
	// Overdue is true when it should have been renewed long ago.
	Overdue bool `json:"overdue,omitempty"`
	// Error is why there is none.
	Error string `json:"error,omitempty"`
}

func (r Report) nodeProblems(now time.Time) []string {
	var problems []string
	active := len(r.Servers) == 0
	for _, s := range r.Servers {
		active = active || s.Active && s.Reason == ""
	}
	if !active {
		for _, s := range r.Servers {
			problems = append(problems, fmt.Sprintf("server %s: %s%s", s.Address, s.State, because(s.Reason)))
		}
	}
	if !r.FromRecord.IsZero() {
		problems = append(problems, fmt.Sprintf("no server reached since the start: this node runs the pods of its own record, for %s",
			now.Sub(r.FromRecord).Round(time.Second)))
	}
	for _, c := range r.Certificates {
		switch {
		case c.Error != "":
			problems = append(problems, fmt.Sprintf("certificate %s: %s", c.Name, c.Error))
		case now.After(c.Expires):
			problems = append(problems, fmt.Sprintf("certificate %s has expired at %s", c.Name, c.Expires.Format(time.RFC3339)))
		case c.Overdue:
			problems = append(problems, fmt.Sprintf("certificate %s expires at %s and could not be renewed", c.Name, c.Expires.Format(time.RFC3339)))
		}
	}
	return problems
}

func writeNode(w io.Writer, r Report, now time.Time) {
	if len(r.Servers) > 0 {
		fmt.Fprintln(w, "\nSERVER\tSTATE\tFOR\tUSED")
		for _, s := range r.Servers {
			used := "-"
			if s.Active {
				used = "yes"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Address, s.State, age(now, s.Since), used)
		}
	}
	if len(r.Certificates) > 0 {
		fmt.Fprintln(w, "\nCERTIFICATE\tEXPIRES IN")
		for _, c := range r.Certificates {
			fmt.Fprintf(w, "%s\t%s\n", c.Name, age(c.Expires, now))
		}
	}
}
