package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// createServices makes Services with an EndpointSlice of three addresses each:
// what every node's kube-proxy and DNS server keep in memory.
func createServices(ctx context.Context, server *node, count int) error {
	if count == 0 {
		return nil
	}
	clients, err := server.clients(loadClients)
	if err != nil {
		return err
	}
	_, err = repeat(ctx, len(clients), count, func(ctx context.Context, client, i int) error {
		name, port, portName := fmt.Sprintf("service-%d", i), int32(8080), "http"
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: portName, Port: 80}}},
		}
		if _, err := clients[client].CoreV1().Services(metav1.NamespaceDefault).Create(ctx, service, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create service %s: %w", name, err)
		}
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
		}
		for k := range 3 { // 198.18.0.0/15 is for benchmarks (RFC 2544)
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{fmt.Sprintf("198.18.%d.%d", (3*i+k)/250, (3*i+k)%250+1)},
			})
		}
		if _, err := clients[client].DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create endpoint slice %s: %w", name, err)
		}
		return nil
	})
	return err
}
