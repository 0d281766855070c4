package engine

// Each calls fn with the current version of every key, in the order of keys,
// until it returns false.
func (s *State) Each(fn func(*Version) bool) { s.live.Scan(fn) }
