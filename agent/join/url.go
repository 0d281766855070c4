package join

import (
	"net"
	"net/url"
)

// ParseServer reads the URL of a server: https://HOST[:PORT]. It returns the
// URL with its port, and HOST:PORT. The error is an *Error.
func ParseServer(text string) (base, hostPort string, err error) {
	u, parseErr := url.Parse(text)
	switch {
	case parseErr != nil || u.Hostname() == "":
		return "", "", refusal(NoServer, "Give it as https://HOST:6443, with --server", "the URL of the server, %q, is not one", text)
	case u.Scheme == "http":
		return "", "", refusal(PlainHTTP, "Give it as https://"+u.Host+", with --server: a server speaks TLS only",
			"the URL of the server, %q, begins with http", text)
	case u.Scheme != "https":
		return "", "", refusal(NoServer, "Give it as https://HOST:6443, with --server", "the URL of the server, %q, does not begin with https", text)
	}
	port := u.Port()
	if port == "" {
		port = "443" // as everywhere with https
	}
	hostPort = net.JoinHostPort(u.Hostname(), port)
	return "https://" + hostPort, hostPort, nil
}
