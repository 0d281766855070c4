package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// payloadSize is the size of a ConfigMap's data in bytes.
const payloadSize = 1 << 10

const payloadKey = "data"

// configMaps are numbered objects of 1 KiB.
type configMaps struct {
	corev1client.ConfigMapInterface
}

const namePrefix = "bench-"

func configMapName(i int) string { return fmt.Sprintf("%s%06d", namePrefix, i) }

// payload is text that does not compress well; the same for the same i.
func payload(i int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	random := rand.New(rand.NewPCG(uint64(i), payloadSize))
	data := make([]byte, payloadSize)
	for k := range data {
		data[k] = letters[random.IntN(len(letters))]
	}
	return string(data)
}

func configMap(i int) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: configMapName(i), Labels: map[string]string{"app": "bench"}},
		Data:       map[string]string{payloadKey: payload(i)},
	}
}

func (c configMaps) create(ctx context.Context, i int) error {
	_, err := c.Create(ctx, configMap(i), metav1.CreateOptions{})
	return err
}

func (c configMaps) get(ctx context.Context, i int) error {
	_, err := c.Get(ctx, configMapName(i), metav1.GetOptions{})
	return err
}

// patch replaces all of the data.
func (c configMaps) patch(ctx context.Context, i int) error {
	body, err := json.Marshal(map[string]any{"data": map[string]string{payloadKey: payload(-i - 1)}})
	if err != nil {
		return err
	}
	_, err = c.Patch(ctx, configMapName(i), types.MergePatchType, body, metav1.PatchOptions{})
	return err
}

func (c configMaps) remove(ctx context.Context, i int) error {
	return c.Delete(ctx, configMapName(i), metav1.DeleteOptions{})
}

// list reads the whole namespace and makes sure that all of them are there.
// limit 0 means in one answer.
func (c configMaps) list(ctx context.Context, version string, limit int64, want int) error {
	opts := metav1.ListOptions{ResourceVersion: version, Limit: limit}
	got := 0
	for {
		page, err := c.List(ctx, opts)
		if err != nil {
			return err
		}
		for i := range page.Items {
			if strings.HasPrefix(page.Items[i].Name, namePrefix) { // not kube-root-ca.crt
				got++
			}
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			break
		}
	}
	if got != want {
		return fmt.Errorf("the list has %d objects instead of %d", got, want)
	}
	return nil
}
