package config

import "github.com/limpetio/limpet/internal/token"

// validateToken refuses a token that no agent could use. That of an agent is
// looked at when it joins, and the content of token-file when it is read.
func (s *Server) validateToken(p *problems) {
	if s.Token == "" {
		return
	}
	if _, err := token.Parse(s.Token); err != nil {
		p.add("token", "%v", err)
	}
}
