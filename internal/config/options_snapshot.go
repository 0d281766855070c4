package config

import "time"

// SnapshotsOff is the snapshot-schedule of those who want none.
const SnapshotsOff = "off"

func snapshotOptions() []Option {
	return append([]Option{
		{
			Name: "snapshot-schedule", Group: groupSnapshots, Value: "PERIOD", Default: "6h",
			Usage:   "When snapshots of the datastore are taken: a duration such as 6h, a cron expression in local time such as \"0 */6 * * *\", or off.",
			binding: stringAt(func(s *Server) *string { return &s.Snapshots.Schedule }),
		},
		{
			Name: "snapshot-retention", Group: groupSnapshots, Value: "COUNT", Default: "5",
			Usage:   "How many scheduled snapshots are kept, here and in the bucket. Those taken by hand stay until they are deleted.",
			binding: intAt(func(s *Server) *int { return &s.Snapshots.Retention }),
		},
		{
			Name: "snapshot-dir", Group: groupSnapshots, Value: "DIR", Default: "server/db/snapshots in data-dir",
			Usage:   "Directory of snapshots. One on another disk survives the loss of this one.",
			binding: stringAt(func(s *Server) *string { return &s.Snapshots.Dir }),
		},
		{
			Name: "snapshot-s3", Group: groupSnapshots,
			Usage:   "Upload snapshots to a bucket, too.",
			binding: boolAt(func(s *Server) *bool { return &s.Snapshots.S3 }),
		},
	}, bucketOptions()...)
}

func bucketOptions() []Option {
	text := func(name, value, def, usage string, field func(*Server) *string) Option {
		return Option{Name: name, Group: groupSnapshots, Value: value, Default: def, Usage: usage, binding: stringAt(field)}
	}
	secret := func(name, usage string, field func(*Server) *string) Option {
		o := text(name, "KEY", "", usage+" On a command line every user of the machine can read it: prefer the config file.", field)
		o.Secret = true
		return o
	}
	return []Option{
		text("snapshot-s3-endpoint", "HOST[:PORT]", "s3.amazonaws.com", "The S3 server.",
			func(s *Server) *string { return &s.Snapshots.Bucket.Endpoint }),
		text("snapshot-s3-endpoint-ca", "FILE", "", "Authority that signed its certificate, unless the system knows it.",
			func(s *Server) *string { return &s.Snapshots.Bucket.EndpointCA }),
		{
			Name: "snapshot-s3-skip-ssl-verify", Group: groupSnapshots,
			Usage:   "Do not verify its certificate.",
			binding: boolAt(func(s *Server) *bool { return &s.Snapshots.Bucket.SkipVerify }),
		},
		{
			Name: "snapshot-s3-insecure", Group: groupSnapshots,
			Usage:   "Use http instead of https.",
			binding: boolAt(func(s *Server) *bool { return &s.Snapshots.Bucket.Insecure }),
		},
		text("snapshot-s3-bucket", "NAME", "", "The bucket; it exists.",
			func(s *Server) *string { return &s.Snapshots.Bucket.Bucket }),
		text("snapshot-s3-bucket-lookup-type", "TYPE", "auto", "Where the bucket's name stands in requests: dns, path or auto.",
			func(s *Server) *string { return &s.Snapshots.Bucket.BucketLookup }),
		text("snapshot-s3-region", "REGION", "us-east-1", "Region of the bucket.",
			func(s *Server) *string { return &s.Snapshots.Bucket.Region }),
		text("snapshot-s3-folder", "PATH", "", "Folder in the bucket; give each cluster its own.",
			func(s *Server) *string { return &s.Snapshots.Bucket.Folder }),
		secret("snapshot-s3-access-key", "Access key of the bucket.",
			func(s *Server) *string { return (*string)(&s.Snapshots.Bucket.AccessKey) }),
		secret("snapshot-s3-secret-key", "Secret key of the bucket.",
			func(s *Server) *string { return (*string)(&s.Snapshots.Bucket.SecretKey) }),
		secret("snapshot-s3-session-token", "Session token of the bucket.",
			func(s *Server) *string { return (*string)(&s.Snapshots.Bucket.SessionToken) }),
		{
			Name: "snapshot-s3-timeout", Group: groupSnapshots, Value: "DURATION", Default: "5m0s",
			Usage:   "How long an operation on the bucket may take.",
			binding: durationAt(func(s *Server) *time.Duration { return &s.Snapshots.Bucket.Timeout }),
		},
	}
}
