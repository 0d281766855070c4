package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// clusterDNS is the address of the DNS Service of a server with default flags,
// and dnsName what it is asked for.
const (
	clusterDNS = "10.43.0.10:53"
	dnsName    = "kubernetes.default.svc.cluster.local."

	// dnsLimit is for one question, which has a socket of its own: before the
	// Service works it gets no answer at all. dnsAtOnce questions wait side by side.
	dnsLimit  = 500 * time.Millisecond
	dnsAtOnce = int(dnsLimit / probePause)
)

// askDNS sends one question and waits for its answer.
func (n *node) askDNS(ctx context.Context) error {
	question, err := dnsQuestion()
	if err != nil {
		return err
	}
	conn, err := n.dial(ctx, "udp", clusterDNS)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // a datagram socket has nothing to lose
	if err := conn.SetDeadline(time.Now().Add(dnsLimit)); err != nil {
		return err
	}
	if _, err := conn.Write(question); err != nil {
		return err
	}
	answer := make([]byte, 1232)
	size, err := conn.Read(answer)
	if err != nil {
		return err
	}
	return checkAnswer(answer[:size])
}

func dnsQuestion() ([]byte, error) {
	name, err := dnsmessage.NewName(dnsName)
	if err != nil {
		return nil, fmt.Errorf("name to ask for: %w", err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

// checkAnswer accepts an answer that has an address.
func checkAnswer(data []byte) error {
	var m dnsmessage.Message
	if err := m.Unpack(data); err != nil {
		return fmt.Errorf("answer of the DNS: %w", err)
	}
	if m.RCode != dnsmessage.RCodeSuccess {
		return fmt.Errorf("answer of the DNS: %s", m.RCode)
	}
	for _, a := range m.Answers {
		if _, ok := a.Body.(*dnsmessage.AResource); ok {
			return nil
		}
	}
	return errors.New("answer of the DNS: no address")
}
