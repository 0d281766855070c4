package config

import (
	"slices"
	"strings"

	"github.com/limpetio/limpet/datastore/snapshot"
)

func (s *Server) validateSnapshots(p *problems) {
	snap := s.Snapshots
	if snap.Scheduled() {
		if _, err := snapshot.ParseSchedule(snap.Schedule); err != nil {
			p.add("snapshot-schedule", "%v", err)
		}
	}
	if snap.Retention < 1 {
		p.add("snapshot-retention", "%d is not a number of snapshots to keep (at least 1); snapshot-schedule: off takes none", snap.Retention)
	}
	p.absolute("snapshot-dir", snap.Dir)
	if !snap.S3 {
		return
	}
	b := snap.Bucket
	if b.Bucket == "" {
		p.add("snapshot-s3-bucket", "is needed with snapshot-s3")
	}
	if strings.Contains(b.Endpoint, "://") {
		p.add("snapshot-s3-endpoint", "%q has a scheme; give HOST or HOST:PORT, and snapshot-s3-insecure for http", b.Endpoint)
	}
	if (b.AccessKey == "") != (b.SecretKey == "") {
		p.add("snapshot-s3-secret-key", "access key and secret key go together")
	}
	if lookups := []string{"auto", "dns", "path"}; !slices.Contains(lookups, b.BucketLookup) {
		p.add("snapshot-s3-bucket-lookup-type", "%q is none of %s", b.BucketLookup, strings.Join(lookups, ", "))
	}
}
