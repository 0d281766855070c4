package engine

import (
	"bytes"
	"cmp"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Range answers a Range request. The header holds the State's revision and
// nothing else.
func (s *State) Range(r *pb.RangeRequest, reader Reader) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	if err := s.readable(r); err != nil {
		return nil, err
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: s.Revision}}
	in := interval(r.Key, r.RangeEnd)
	current := r.Revision <= 0 || r.Revision == s.Revision
	if r.CountOnly && current {
		resp.Count = int64(s.count(in))
		return resp, nil
	}

	found, err := s.find(r, in, current, reader)
	if err != nil {
		return nil, err
	}
	resp.Count = int64(found.total)
	if r.CountOnly {
		return resp, nil
	}
	if err := found.sort(r, reader); err != nil {
		return nil, err
	}
	if r.Limit > 0 && int64(len(found.versions)) > r.Limit {
		found.versions = found.versions[:r.Limit]
		resp.More = true
	}
	resp.Kvs, err = found.kvs(r, reader)
	return resp, err
}

// readable reports whether the State knows what was at the revision that a
// request asks for.
func (s *State) readable(r *pb.RangeRequest) error {
	switch {
	case r.Revision > s.Revision:
		return rpctypes.ErrGRPCFutureRev
	case r.Revision > 0 && r.Revision < s.Compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

// found is what a Range request selects.
type found struct {
	versions []*Version
	total    int // keys in the interval, however many are returned
}

// find selects the versions to return; with a limit and in the order of keys,
// one more than that.
func (s *State) find(r *pb.RangeRequest, in Interval, current bool, reader Reader) (*found, error) {
	limit := 0
	if r.Limit > 0 && r.Limit < math.MaxInt32 && r.SortTarget == pb.RangeRequest_KEY && r.SortOrder != pb.RangeRequest_DESCEND {
		limit = int(r.Limit) + 1
	}
	f := &found{}
	take := func(v *Version) {
		if (limit == 0 || len(f.versions) < limit) && selected(r, v) {
			f.versions = append(f.versions, v)
		}
	}
	if !current {
		err := s.scanAt(r.Revision, in, reader, func(v *Version) {
			f.total++
			take(v)
		})
		return f, err
	}
	s.scan(in, func(v *Version) bool {
		take(v)
		return limit == 0 || len(f.versions) < limit
	})
	f.total = len(f.versions)
	if limit > 0 && f.total == limit || filters(r) {
		f.total = s.count(in)
	}
	return f, nil
}

func filters(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

func selected(r *pb.RangeRequest, v *Version) bool {
	mod := v.ModRevision()
	return (r.MinModRevision == 0 || mod >= r.MinModRevision) && (r.MaxModRevision == 0 || mod <= r.MaxModRevision) &&
		(r.MinCreateRevision == 0 || v.CreateRevision >= r.MinCreateRevision) &&
		(r.MaxCreateRevision == 0 || v.CreateRevision <= r.MaxCreateRevision)
}

// sort puts the versions into the order that was asked for.
func (f *found) sort(r *pb.RangeRequest, reader Reader) error {
	if r.SortOrder == pb.RangeRequest_NONE && r.SortTarget == pb.RangeRequest_KEY {
		return nil // as they are
	}
	by := func(a, b *Version) int {
		switch r.SortTarget {
		case pb.RangeRequest_VERSION:
			return cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			return cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			return cmp.Compare(a.ModRevision(), b.ModRevision())
		default:
			return cmp.Compare(a.Key, b.Key)
		}
	}
	if r.SortTarget == pb.RangeRequest_VALUE {
		list, err := reader.Values(f.versions)
		if err != nil {
			return err
		}
		values := make(map[*Version][]byte, len(list))
		for i, v := range f.versions {
			values[v] = list[i]
		}
		by = func(a, b *Version) int { return bytes.Compare(values[a], values[b]) }
	}
	slices.SortStableFunc(f.versions, func(a, b *Version) int {
		if r.SortOrder == pb.RangeRequest_DESCEND {
			return by(b, a)
		}
		return by(a, b)
	})
	return nil
}

func (f *found) kvs(r *pb.RangeRequest, reader Reader) ([]*mvccpb.KeyValue, error) {
	values := make([][]byte, len(f.versions))
	if !r.KeysOnly {
		var err error
		if values, err = reader.Values(f.versions); err != nil {
			return nil, err
		}
	}
	kvs := make([]*mvccpb.KeyValue, len(f.versions))
	for i, v := range f.versions {
		kvs[i] = v.KV(values[i])
	}
	return kvs, nil
}

// scanAt calls fn with each version in the interval as of an earlier revision,
// by key. Keys that have changed since are followed back through the log.
func (s *State) scanAt(revision int64, in Interval, reader Reader, fn func(*Version)) error {
	var candidates []*Version
	collect := func(v *Version) bool {
		if !in.Contains(v.Key) {
			return false
		}
		candidates = append(candidates, v)
		return true
	}
	from := &Version{Key: in.Key}
	s.live.Ascend(from, collect)
	split := len(candidates)
	s.dead.Ascend(from, collect)
	if split < len(candidates) {
		slices.SortFunc(candidates, func(a, b *Version) int { return cmp.Compare(a.Key, b.Key) })
	}
	for _, v := range candidates {
		v, err := asOf(revision, v, reader)
		if err != nil {
			return err
		}
		if v != nil {
			fn(v)
		}
	}
	return nil
}

// asOf goes back from a version to what the key was at a revision; nil if it
// did not exist.
func asOf(revision int64, v *Version, reader Reader) (*Version, error) {
	for v != nil && v.ModRevision() > revision {
		if v.Prev == 0 {
			return nil, nil
		}
		var err error
		if v, err = reader.Record(v.Prev); err != nil {
			return nil, err
		}
	}
	if v == nil || v.Tombstone() {
		return nil, nil
	}
	return v, nil
}
