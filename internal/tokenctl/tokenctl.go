// Package tokenctl is what `limpet token` does, on the machine of a server and
// through its API: a token is valid, or dead, when a command returns.
package tokenctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/localserver"
	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/token/tokensecret"
)

// patience bounds a command: the server may be starting.
const patience = 30 * time.Second

// Control manages the tokens of the server that has this configuration.
type Control struct {
	Config config.Server
	Out    io.Writer
}

// Create says what token to make.
type Create struct {
	TTL         time.Duration // from now; zero: it never expires
	Description string
	Role        tokensecret.Role
	// PrintJoin prints the command for the other machine instead of the token.
	PrintJoin bool
}

// Create makes a token and prints it. It can be used when Create returns.
func (c Control) Create(ctx context.Context, in Create) error {
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.cancel()
	r := tokensecret.Record{Token: token.Generate(), Role: in.Role, Description: in.Description}
	if in.TTL > 0 {
		r.Expires = time.Now().Add(in.TTL).Truncate(time.Second)
	}
	var address string
	if in.PrintJoin { // before anything is changed
		if address, err = s.address(); err != nil {
			return err
		}
	}
	if _, err := s.secrets().Create(s.ctx, r.Secret(), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create token: %w", s.explain(err))
	}
	if err := s.await(r.Token, true); err != nil {
		return err
	}
	full := r.Token.WithCA(s.hash)
	if in.PrintJoin {
		fmt.Fprintf(c.Out, "limpet agent --server https://%s --token %s\n", address, full)
		return nil
	}
	fmt.Fprintln(c.Out, full)
	return nil
}

// Generate prints a new token that no cluster knows yet, for setting it
// beforehand. It needs no server.
func (c Control) Generate() error {
	fmt.Fprintln(c.Out, token.Generate())
	return nil
}

// listed is a token as list shows it. There is no way to print the secret.
type listed struct {
	ID          string     `json:"id"`
	Role        string     `json:"role,omitempty"`
	Expires     *time.Time `json:"expires,omitempty"` // missing: never
	Expired     bool       `json:"expired"`
	Own         bool       `json:"own"` // the server's own token
	Description string     `json:"description,omitempty"`
	// Problem is why the token lets nobody in, if its Secret is damaged.
	Problem string `json:"problem,omitempty"`
}

// List prints the tokens, the server's own first.
func (c Control) List(ctx context.Context, asJSON bool) error {
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.cancel()
	found, err := s.list()
	if err != nil {
		return err
	}
	now := time.Now()
	all := make([]listed, 0, len(found))
	for _, secret := range found {
		all = append(all, show(secret, now))
	}
	slices.SortStableFunc(all, func(a, b listed) int {
		switch {
		case a.Own != b.Own:
			return map[bool]int{true: -1, false: 1}[a.Own]
		default:
			return strings.Compare(a.ID, b.ID)
		}
	})
	if asJSON {
		out := json.NewEncoder(c.Out)
		out.SetIndent("", "  ")
		return out.Encode(all)
	}
	return printTable(c.Out, all, now)
}

func show(secret corev1.Secret, now time.Time) listed {
	r, err := tokensecret.Read(&secret)
	if err != nil {
		return listed{ID: strings.TrimPrefix(secret.Name, tokensecret.Name("")), Problem: err.Error()}
	}
	l := listed{ID: r.Token.ID(), Role: string(r.Role), Expired: r.Expired(now), Own: r.Own, Description: r.Description}
	if !r.Expires.IsZero() {
		l.Expires = &r.Expires
	}
	return l
}

func printTable(w io.Writer, all []listed, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "ID\tROLE\tEXPIRES\tDESCRIPTION")
	for _, l := range all {
		expires := "never"
		switch {
		case l.Problem != "":
			expires = "-"
		case l.Expired:
			expires = "expired " + duration.HumanDuration(now.Sub(*l.Expires)) + " ago"
		case l.Expires != nil:
			expires = "in " + duration.HumanDuration(l.Expires.Sub(now))
		}
		text := l.Description
		if l.Problem != "" {
			text = "lets nobody in: " + l.Problem
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", l.ID, orDash(l.Role), expires, text)
	}
	return table.Flush()
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// Delete deletes tokens, named by id or in any form of a token. Either all of
// them are known, or nothing is deleted. They are dead when Delete returns.
func (c Control) Delete(ctx context.Context, names []string) error {
	ids, err := idsOf(names)
	if err != nil {
		return err
	}
	s, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer s.cancel()
	found, err := s.list()
	if err != nil {
		return err
	}
	chosen, err := pick(found, ids)
	if err != nil {
		return err
	}
	for _, secret := range chosen {
		if err := s.secrets().Delete(s.ctx, secret.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete token %s: %w", secret.Name, s.explain(err))
		}
		if r, err := tokensecret.Read(&secret); err == nil {
			if err := s.await(r.Token, false); err != nil {
				return err
			}
		}
		fmt.Fprintf(c.Out, "Deleted the token %s; machines that have joined with it stay.\n", strings.TrimPrefix(secret.Name, tokensecret.Name("")))
	}
	return nil
}

// idsOf are the ids that a person named, each once.
func idsOf(names []string) ([]string, error) {
	var ids []string
	for _, name := range names {
		id := name
		if t, err := token.Parse(name); err == nil {
			id = t.ID()
		} else if _, err := token.New(name, "0000000000000000"); err != nil {
			return nil, errors.New("an argument is neither a token nor the id of one, which has six characters of a-z and 0-9: nothing was deleted. `limpet token list` shows the ids")
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// pick returns the Secrets of the ids, or why nothing may be deleted.
func pick(found []corev1.Secret, ids []string) ([]corev1.Secret, error) {
	byName := map[string]corev1.Secret{}
	for _, secret := range found {
		byName[secret.Name] = secret
	}
	var chosen []corev1.Secret
	var unknown []string
	for _, id := range ids {
		secret, ok := byName[tokensecret.Name(id)]
		if !ok {
			unknown = append(unknown, id)
			continue
		}
		if r, err := tokensecret.Read(&secret); err == nil && r.Own {
			return nil, fmt.Errorf("%s is the server's own token, which a server has always: nothing was deleted. `limpet token rotate` replaces it", id)
		}
		chosen = append(chosen, secret)
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("there is no token %s: nothing was deleted. `limpet token list` shows the ids", strings.Join(unknown, ", "))
	}
	return chosen, nil
}

// session is a connection to the API of this machine's server.
type session struct {
	ctx    context.Context //nolint:containedctx // of one command
	cancel context.CancelFunc
	config *rest.Config
	client kubernetes.Interface
	hash   token.Hash // of the cluster's root certificate
}

// connect finds the server of this machine.
func (c Control) connect(ctx context.Context) (*session, error) {
	cfg, err := localserver.Config(c.Config.DataDir, "Tokens")
	if err != nil {
		return nil, err
	}
	bundle, err := cert.CertsFromFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the cluster's certificate: %w", err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	return &session{ctx: limited, cancel: cancel, config: cfg, client: client, hash: token.HashCA(token.Root(bundle).Raw)}, nil
}

func (s *session) secrets() secretClient {
	return s.client.CoreV1().Secrets(tokensecret.Namespace)
}

// secretClient is what the commands do with Secrets.
type secretClient interface {
	Create(ctx context.Context, secret *corev1.Secret, opts metav1.CreateOptions) (*corev1.Secret, error)
	Update(ctx context.Context, secret *corev1.Secret, opts metav1.UpdateOptions) (*corev1.Secret, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

func (s *session) list() ([]corev1.Secret, error) {
	list, err := s.client.CoreV1().Secrets(tokensecret.Namespace).List(s.ctx, metav1.ListOptions{FieldSelector: tokensecret.FieldSelector})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", s.explain(err))
	}
	return list.Items, nil
}

// explain tells what to do about the usual errors.
func (s *session) explain(err error) error { return localserver.Explain(err, s.config, patience) }

// address is where other machines reach the server.
func (s *session) address() (string, error) {
	m, err := s.client.CoreV1().ConfigMaps(join.Namespace).Get(s.ctx, join.Name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("find the server's address: %w", s.explain(err))
	}
	settings, err := join.Parse([]byte(m.Data[join.Key]))
	if err != nil {
		return "", fmt.Errorf("find the server's address: %w", err)
	}
	return settings.Servers[0], nil
}

// await returns when the API server lets a bearer of the token in, or does not
// any more. It learns of Secrets by a watch, and remembers whom it let in for a
// second.
func (s *session) await(t token.Token, let bool) error {
	cfg := rest.AnonymousClientConfig(s.config)
	cfg.BearerToken, cfg.QPS = t.Bootstrap(), -1
	bearer, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	for {
		_, err := bearer.CoreV1().ConfigMaps(join.Namespace).Get(s.ctx, join.Name, metav1.GetOptions{})
		answered := err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown
		if answered && apierrors.IsUnauthorized(err) != let {
			return nil
		}
		select {
		case <-s.ctx.Done():
			return fmt.Errorf("the server has not taken notice of the token %s within %v", t.ID(), patience)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// own is the Secret of the server's own token among all.
func own(found []corev1.Secret) (tokensecret.Record, *corev1.Secret) {
	secrets := map[string]*corev1.Secret{}
	var records []tokensecret.Record
	for i := range found {
		if r, err := tokensecret.Read(&found[i]); err == nil {
			records = append(records, r)
			secrets[r.Token.ID()] = &found[i]
		}
	}
	newest, ok := tokensecret.Newest(records)
	if !ok {
		return tokensecret.Record{}, nil
	}
	return newest, secrets[newest.Token.ID()]
}
