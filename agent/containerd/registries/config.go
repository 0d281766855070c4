// Package registries turns registries.yaml, as k3s users know it, into the
// hosts.toml files of containerd, while the node runs.
//
//	mirrors:
//	  docker.io:
//	    endpoint: ["https://mirror.example.com", "https://other.example.com/v2/hub"]
//	    rewrite: {"^library/(.*)": "hub/$1"}
//	  "*":
//	    endpoint: ["https://cache.example.com:5000"]
//	configs:
//	  mirror.example.com:
//	    auth: {username: edge, password: secret}
//	    tls: {ca_file: /etc/ssl/mirror.pem}
//
// What hosts.toml cannot express, credentials and rewrites, is done by a small
// proxy on the loopback interface (gateway.go), which only runs if it is needed.
package registries

import (
	"net/url"
	"regexp"
)

// Wildcard is the mirrors key for all registries that have no key of their own.
const Wildcard = "*"

// Config is a registries.yaml that was found to be right.
type Config struct {
	// Mirrors by the registry that is named in images ("docker.io"), or Wildcard.
	Mirrors map[string]Mirror
	// Hosts are the settings of registries and of mirrors, by host or host:port.
	Hosts map[string]Host
}

// Mirror is where images of a registry are looked for first.
type Mirror struct {
	// Endpoints are tried in order. Their path is the API's root; none means /v2.
	Endpoints []*url.URL
	// Rewrites of repository names, for the endpoints only; the first that
	// matches is applied.
	Rewrites []Rewrite
}

// Rewrite replaces what Pattern matches in a repository name; in Replacement $1
// or ${1} is the text of the first parenthesis.
type Rewrite struct {
	Pattern     *regexp.Regexp
	Replacement string
}

// Host is how to talk to one host.
type Host struct {
	Auth Auth
	TLS  TLS
}

// Auth are the node's own credentials, either a user with a password or an
// identity token (OAuth2 refresh token). All empty: none.
type Auth struct {
	Username, Password string
	IdentityToken      string
}

func (a Auth) empty() bool { return a == Auth{} }

// TLS are file names of PEM files, and whether to believe any certificate.
type TLS struct {
	CAFile, CertFile, KeyFile string
	InsecureSkipVerify        bool
}

func (t TLS) empty() bool { return t == TLS{} }

// rewrite applies the first rewrite that matches.
func rewrite(rules []Rewrite, name string) string {
	for _, r := range rules {
		if r.Pattern.MatchString(name) {
			return r.Pattern.ReplaceAllString(name, r.Replacement)
		}
	}
	return name
}
