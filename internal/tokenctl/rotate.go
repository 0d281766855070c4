package tokenctl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/token/tokensecret"
)

// fileWithin is how long the server may take to write its token's file.
const fileWithin = 5 * time.Second

// Rotate replaces the server's own token by the given one or, if that is the zero
// value, by a new secret.
// The old one is dead when Rotate returns; machines that have joined stay.
//
// A configuration that names a token decides: it was refused at the next start
// if another one were put in force.
func (c Control) Rotate(ctx context.Context, given token.Token) error {
	wanted, err := c.wanted(given)
	if err != nil {
		return err
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.cancel()
	if hash, pinned := wanted.Hash(); pinned && hash != s.hash {
		return fmt.Errorf("the token names the certificate of another cluster, with the hash %s; this one's has %s", hash, s.hash)
	}
	found, err := s.list()
	if err != nil {
		return err
	}
	present, secret := own(found)
	if secret == nil {
		return errors.New("the server has no token of its own yet: it is starting. Try again in a moment")
	}
	switch {
	case wanted.ID() == "" && present.Configured:
		return errors.New("the server was started with a token that its configuration names, where this command does not see it (a flag, a variable, another config file), and the next start would refuse another: nothing was changed. " +
			"Put a new one there first (`limpet token generate` makes one), then give it here, too (--token-file)")
	case wanted.ID() == "":
		wanted = present.Token.GenerateSecret()
	case wanted.Equal(present.Token):
		return alreadyInForce(given)
	}
	next := tokensecret.OwnRecord(wanted, present.Generation+1)
	next.Configured = present.Configured
	if wanted.ID() == present.Token.ID() {
		_, err = s.secrets().Update(s.ctx, next.Into(secret), metav1.UpdateOptions{})
	} else {
		// The server removes the older of two by itself, should this be cut off.
		if _, err = s.secrets().Create(s.ctx, next.Secret(), metav1.CreateOptions{}); err == nil {
			err = s.secrets().Delete(s.ctx, secret.Name, metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				err = nil
			}
		}
	}
	switch {
	case apierrors.IsAlreadyExists(err):
		return fmt.Errorf("there is another token with the id %s: nothing was changed. Delete it first, or choose another", wanted.ID())
	case err != nil:
		return fmt.Errorf("rotate the server's token: %w", s.explain(err))
	}
	if err := errors.Join(s.await(wanted, true), s.await(present.Token, false)); err != nil {
		return err
	}
	return c.reportFile(s, wanted)
}

// wanted is the token that is to be in force: the given one or the
// configuration's, which must not differ; the zero value: a new one.
func (c Control) wanted(given token.Token) (token.Token, error) {
	configured, name, err := c.configured()
	if err != nil {
		return token.Token{}, err
	}
	if given.ID() == "" {
		return configured, nil
	}
	if name != "" && !configured.Equal(given) {
		return token.Token{}, fmt.Errorf("the configuration names the token %s (%s), and the next start would refuse another: nothing was changed. Put the new one there, then run `limpet token rotate` without it",
			configured.ID(), name)
	}
	return given, nil
}

// configured is the token that the configuration names, and the option; zero
// without one.
func (c Control) configured() (token.Token, string, error) {
	switch {
	case c.Config.TokenFile != "":
		t, err := token.ReadFile(c.Config.TokenFile)
		if err != nil {
			err = fmt.Errorf("the configuration's token-file: %w", err)
		}
		return t, "token-file", err
	case c.Config.Token != "":
		t, err := token.Parse(c.Config.Token)
		if err != nil {
			err = fmt.Errorf("the configuration's token: %w", err)
		}
		return t, "token", err
	}
	return token.Token{}, "", nil
}

// alreadyInForce says that there is nothing to do, and how there would be.
func alreadyInForce(given token.Token) error {
	if given.ID() != "" {
		return errors.New("that is the token that the server has: nothing was changed")
	}
	return errors.New("the server has the token that the configuration names: nothing was changed. Put the new one there first (`limpet token generate` makes one), then run this again")
}

// reportFile waits until the server has written the file, and says so.
func (c Control) reportFile(s *session, wanted token.Token) error {
	path := filepath.Join(c.Config.DataDir, "server", "token")
	deadline := time.Now().Add(fileWithin)
	for {
		if t, err := token.ReadFile(path); err == nil && t.Equal(wanted) {
			fmt.Fprintf(c.Out, "The server has a new token, with the id %s; it is in %s.\nThe old one lets nobody in any more. Machines that have joined stay.\n", wanted.ID(), path)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the new token, with the id %s, is in force, but the server has not written it into %s; `limpet status` tells more", wanted.ID(), path)
		}
		select {
		case <-s.ctx.Done():
			return s.ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
