package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/util/cert"

	"github.com/limpetio/limpet/internal/component"
	joinapi "github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/version"
	serverjoin "github.com/limpetio/limpet/server/join"
)

func (l layout) token() string { return l.server("token") }

// checkToken reads the token that the configuration names and finds what is
// wrong with it: another cluster's, or not the one that this cluster has. The
// file of a lost token counts as none: the cluster knows it.
func (s *server) checkToken() error {
	chosen, err := s.configuredToken()
	if err != nil || chosen.ID() == "" {
		return err
	}
	if err := s.checkTokenHash(chosen); err != nil {
		return err
	}
	present, err := token.ReadFile(s.layout.token())
	if err == nil && !present.Equal(chosen) {
		return fmt.Errorf("the configuration names the token %s, but machines join this cluster with the token %s (in %s). "+
			"To keep that one, take the token out of the configuration. To change it, start without the token, name the new one in the configuration and run `limpet token rotate`",
			chosen.ID(), present.ID(), s.layout.token())
	}
	s.chosenToken = chosen
	return nil
}

// configuredToken is the zero value without one.
func (s *server) configuredToken() (token.Token, error) {
	switch {
	case s.cfg.TokenFile != "":
		t, err := token.ReadFile(s.cfg.TokenFile)
		if err != nil {
			return token.Token{}, fmt.Errorf("token-file: %w", err)
		}
		return t, nil
	case s.cfg.Token != "":
		t, err := token.Parse(s.cfg.Token)
		if err != nil {
			return token.Token{}, fmt.Errorf("token: %w", err)
		}
		return t, nil
	}
	return token.Token{}, nil
}

// checkTokenHash compares the hash of a token in full form with the cluster's
// certificate.
func (s *server) checkTokenHash(t token.Token) error {
	hash, pinned := t.Hash()
	if !pinned {
		return nil
	}
	file := filepath.Join(s.layout.tls(), "server-ca.crt")
	found, err := caHash(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("the token names the certificate of a cluster, but this one has none yet: give the token without it, from the :: on, or put that certificate and its key into %s first", filepath.Dir(file))
	case err != nil:
		return err
	case hash != found:
		return fmt.Errorf("the token is one of another cluster: it names a certificate with the hash %s, but %s has %s", hash, file, found)
	}
	return nil
}

// caHash is the hash by which tokens name the authority in a file.
func caHash(file string) (token.Hash, error) {
	bundle, err := cert.CertsFromFile(file)
	if err != nil {
		return token.Hash{}, fmt.Errorf("read the cluster's certificate: %w", err)
	}
	return token.HashCA(token.Root(bundle).Raw), nil
}

// prepareJoin makes what machines that join are served; the certificates exist
// by now.
func (s *server) prepareJoin() error {
	hash, err := caHash(s.certs.ServerCA)
	if err != nil {
		return err
	}
	bundle, err := os.ReadFile(s.certs.ServerCA)
	if err != nil {
		return fmt.Errorf("read the cluster's certificate: %w", err)
	}
	s.tokens = serverjoin.NewTokens(serverjoin.TokensOptions{
		Client: s.apiserver.Loopback, File: s.layout.token(), CABundle: bundle, Hash: hash,
		Chosen: s.chosenToken, Logger: s.log.With("component", serverjoin.TokensName),
	})
	for path, handler := range s.tokens.Handlers() {
		s.apiserver.handle(path, handler)
	}
	return nil
}

// addJoin adds the components that let machines join.
func (s *server) addJoin(sup *component.Supervisor) error {
	settings, err := s.joinConfig()
	if err != nil {
		return err
	}
	api := []string{s.apiserver.Name()}
	if err := sup.Add(serverjoin.Publisher(settings, s.apiserver.Loopback), component.Spec{After: api, Restart: true}); err != nil {
		return err
	}
	return sup.Add(s.tokens, component.Spec{After: []string{serverjoin.PublisherName}, Restart: true})
}

// joinConfig is what every node has to agree on with this server.
func (s *server) joinConfig() (joinapi.Config, error) {
	serverCA, err := os.ReadFile(s.certs.ServerCA)
	if err != nil {
		return joinapi.Config{}, fmt.Errorf("read authority: %w", err)
	}
	clientCA, err := os.ReadFile(s.certs.ClientCA)
	if err != nil {
		return joinapi.Config{}, fmt.Errorf("read authority: %w", err)
	}
	return joinapi.Config{
		ClusterCIDR: s.cfg.ClusterCIDR, ServiceCIDR: s.cfg.ServiceCIDR,
		ClusterDNS: s.cfg.ClusterDNS, ClusterDomain: s.cfg.ClusterDomain,
		FlannelBackend: s.cfg.FlannelBackend, FlannelExternalIP: s.cfg.FlannelExternalIP,
		ServerCA: string(serverCA), ClientCA: string(clientCA),
		Servers:          []string{net.JoinHostPort(s.cfg.AdvertiseAddress.String(), strconv.Itoa(s.cfg.HTTPSListenPort))},
		DisableKubeProxy: s.cfg.DisableKubeProxy, Disable: s.cfg.Disable,
		KubernetesVersion: version.KubernetesVersion, LimpetVersion: version.Version,
	}, nil
}
