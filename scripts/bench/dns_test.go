package main

import (
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func TestDNSQuestion(t *testing.T) {
	t.Parallel()
	data, err := dnsQuestion()
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(data); err != nil {
		t.Fatal(err)
	}
	if len(m.Questions) != 1 || m.Questions[0].Name.String() != dnsName || m.Questions[0].Type != dnsmessage.TypeA {
		t.Errorf("questions are %+v", m.Questions)
	}
}

func TestCheckAnswer(t *testing.T) {
	t.Parallel()
	name := dnsmessage.MustNewName(dnsName)
	address := dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
		Body:   &dnsmessage.AResource{A: [4]byte{10, 43, 0, 1}},
	}
	for _, tt := range []struct {
		name string
		m    dnsmessage.Message
		ok   bool
	}{
		{"address", dnsmessage.Message{Answers: []dnsmessage.Resource{address}}, true},
		{"no such name", dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeNameError}}, false},
		{"failure with an answer", dnsmessage.Message{Header: dnsmessage.Header{RCode: dnsmessage.RCodeServerFailure}, Answers: []dnsmessage.Resource{address}}, false},
		{"empty", dnsmessage.Message{}, false},
	} {
		data, err := tt.m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if err := checkAnswer(data); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if checkAnswer([]byte{1, 2, 3}) == nil {
		t.Error("rubbish is accepted")
	}
}
