package loadbalancer

import (
	"context"
	"slices"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func apiSlice(addrs ...string) *discoveryv1.EndpointSlice {
	port := int32(6443)
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		Ports:      []discoveryv1.EndpointPort{{Port: &port}},
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	no := false
	v6 := apiSlice("2001:db8::1")
	down := apiSlice("192.0.2.9")
	down.Endpoints[0].Conditions.Ready = &no
	got := endpoints([]*discoveryv1.EndpointSlice{v6, apiSlice("192.0.2.2", "192.0.2.1"), down, apiSlice("192.0.2.1")})
	if want := []string{"192.0.2.1:6443", "192.0.2.2:6443", "[2001:db8::1]:6443"}; !slices.Equal(got, want) {
		t.Errorf("endpoints %v, want %v", got, want)
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(apiSlice("192.0.2.1"))
	b, err := New(Options{Servers: []string{"mast.example.com:6443"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- b.Follow(client, func() []string { return []string{"192.0.2.100:443"} }).Run(ctx, func() {})
	}()
	for _, want := range [][]string{
		{"mast.example.com:6443", "192.0.2.1:6443", "192.0.2.100:443"},
		{"mast.example.com:6443", "192.0.2.1:6443", "192.0.2.2:6443", "192.0.2.100:443"},
	} {
		limit := time.After(10 * time.Second)
		for changed := b.Changed(); !slices.Equal(b.Servers(), want); changed = b.Changed() {
			select {
			case <-changed:
			case <-time.After(50 * time.Millisecond):
			case <-limit:
				t.Fatalf("servers %v, want %v", b.Servers(), want)
			}
		}
		if _, err := client.DiscoveryV1().EndpointSlices("default").Update(ctx, apiSlice("192.0.2.1", "192.0.2.2"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
