package hostcheck

import (
	"fmt"
	"strconv"
	"strings"
)

// capSet is a set of capabilities, bit n being capability number n of
// linux/capability.h.
type capSet uint64

// Has tells whether the capability (unix.CAP_*) is in the set.
func (s capSet) Has(capability int) bool { return s&(1<<uint(capability)) != 0 }

// capabilities are the sets of a process that decide what it and its children may do.
type capabilities struct {
	Effective capSet // what the process may do now
	Bounding  capSet // what it and its children can ever gain
}

// parseCapabilities reads the CapEff and CapBnd lines of /proc/PID/status.
func parseCapabilities(status string) (capabilities, error) {
	var c capabilities
	found := 0
	for line := range strings.Lines(status) {
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		var set *capSet
		switch key {
		case "CapEff":
			set = &c.Effective
		case "CapBnd":
			set = &c.Bounding
		default:
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return c, fmt.Errorf("parse %s of /proc/self/status: %w", key, err)
		}
		*set = capSet(n)
		found++
	}
	if found != 2 {
		return c, fmt.Errorf("parse /proc/self/status: no CapEff and CapBnd lines")
	}
	return c, nil
}
