package join

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/token/tokensecret"
)

// situation is all that decide looks at.
type situation struct {
	secrets []*corev1.Secret // all of the bootstrap token type
	// chosen is the token of the configuration until it is in force, file the one
	// in the file, fresh a new one; the first two may be the zero value.
	chosen, file, fresh token.Token
	configured          bool // the configuration names a token
	now                 time.Time
}

// decision is what has to be done.
type decision struct {
	own    token.Token
	create *corev1.Secret // the Secret of own, if there is none
	update *corev1.Secret // the Secret of own, if it is not as it has to be
	remove []*corev1.Secret
	// next is when the decision would be another one without any change; zero: never.
	next time.Time
}

// decide computes, from everything there is, what the server's own token is and
// which tokens go.
//
// A token that the configuration names comes first, and was compared with the
// file at the start. Otherwise the Secret rules, since this is where a token is
// rotated and what a restored snapshot brings back; then the file, for a
// datastore that is new.
func decide(s situation) decision {
	var records []tokensecret.Record
	for _, secret := range s.secrets {
		if r, err := tokensecret.Read(secret); err == nil {
			records = append(records, r)
		}
	}
	var d decision
	newest, found := tokensecret.Newest(records)
	generation := newest.Generation
	switch {
	case s.chosen.ID() != "":
		d.own = s.chosen
		if found && !newest.Token.Equal(s.chosen) {
			generation++
		}
	case found:
		d.own = newest.Token
	case s.file.ID() != "":
		d.own = s.file
	default:
		d.own = s.fresh
	}

	wanted := tokensecret.OwnRecord(d.own, generation)
	wanted.Configured = s.configured
	name := tokensecret.Name(d.own.ID())
	switch current := findSecret(s.secrets, name); {
	case current == nil:
		d.create = wanted.Secret()
	case !wanted.IsIn(current):
		d.update = wanted.Into(current)
	}
	for _, secret := range s.secrets {
		if secret.Name == name {
			continue
		}
		until := removal(secret, s.now)
		switch {
		case until.IsZero():
		case !until.After(s.now):
			d.remove = append(d.remove, secret)
		case d.next.IsZero(), until.Before(d.next):
			d.next = until
		}
	}
	return d
}

// removal is when a Secret that is not the server's own token goes; zero: never.
func removal(secret *corev1.Secret, now time.Time) time.Time {
	r, err := tokensecret.Read(secret)
	switch {
	case err != nil:
		// Nobody is let in with it, and a person may still be at work on it.
		return time.Time{}
	case r.Own:
		return now // of a rotation that was cut off
	case r.Expires.IsZero():
		return time.Time{}
	}
	return r.Expires.Add(keepExpired)
}

func findSecret(list []*corev1.Secret, name string) *corev1.Secret {
	for _, s := range list {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// judge says what a bearer of t may know.
func judge(secrets []*corev1.Secret, t token.Token, now time.Time) Verdict {
	// A bearer without a Secret is compared with nobody's token, so that the
	// time tells no more than the answer.
	known := tokensecret.Record{Token: token.Generate()}
	for _, s := range secrets {
		if s.Name != tokensecret.Name(t.ID()) {
			continue
		}
		if r, err := tokensecret.Read(s); err == nil {
			known = r
		}
	}
	switch {
	case !known.Token.Equal(t):
		return Verdict{State: Unknown}
	case known.Expired(now):
		return Verdict{State: Expired, Expired: &known.Expires}
	}
	return Verdict{State: Valid}
}
