package snapshot

import "time"

// Status is what a Scheduler did and is going to do, for `limpet status` and for
// metrics.
type Status struct {
	Dir      string    `json:"dir"`
	Schedule string    `json:"schedule"`
	Next     time.Time `json:"next,omitzero"`

	// Newest is the newest snapshot that was taken, or found at the start.
	Newest *Info `json:"newest,omitempty"`
	// Current is when Newest was last known to hold all there is: when it was
	// taken, or when nothing had changed since. An alert belongs on its age.
	Current time.Time `json:"current,omitzero"`
	Count   int       `json:"count"` // of snapshots in Dir
	Bytes   int64     `json:"bytes"`

	// Since the start:
	Taken   int64     `json:"taken"`
	Skipped int64     `json:"skipped"` // since nothing had changed
	Failed  int64     `json:"failed"`
	Failure time.Time `json:"failure,omitzero"` // the last one
	// Error is why the last attempt failed; empty again after a success.
	Error string `json:"error,omitempty"`

	Bucket *BucketStatus `json:"bucket,omitempty"` // nil without one
}

// BucketStatus is the part of Status about a bucket.
type BucketStatus struct {
	Bucket  string    `json:"bucket"`
	Newest  string    `json:"newest,omitempty"` // uploaded since the start
	Success time.Time `json:"success,omitzero"`
	Failed  int64     `json:"failed"`
	Failure time.Time `json:"failure,omitzero"`
	Error   string    `json:"error,omitempty"` // empty again after a success
}

// Age is how long ago the newest snapshot held all there was. It reports false
// if there is none.
func (s Status) Age(now time.Time) (age time.Duration, ok bool) {
	return max(0, now.Sub(s.Current)), !s.Current.IsZero()
}

func (s Status) clone() Status {
	if s.Newest != nil {
		newest := *s.Newest
		s.Newest = &newest
	}
	if s.Bucket != nil {
		bucket := *s.Bucket
		s.Bucket = &bucket
	}
	return s
}
