package deploy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
)

const (
	// manifestLabel marks records; its value is the name's hash. The annotation
	// of the same name, on objects, holds the file that they come from.
	manifestLabel = "limpet.io/manifest"

	recordNamespace = metav1.NamespaceSystem

	// Keys of a record: what file it is about, and what is in it.
	keyOrigin   = "origin"
	keyPath     = "path"
	keyChecksum = "checksum" // SHA-256 of the content that was last begun to be applied
	keyObjects  = "objects"  // a line of ref.encode for each object
)

// record is what the cluster remembers of one file.
type record struct {
	id       fileID
	checksum string
	refs     []ref
	uid      types.UID // of the ConfigMap
}

// same reports whether both would be stored as the same ConfigMap.
func (r record) same(other record) bool {
	return r.id == other.id && r.checksum == other.checksum && slices.Equal(r.refs, other.refs)
}

// recordName is the name of the ConfigMap for a file: readable as far as the
// rules for names allow, unique by a hash.
func recordName(id fileID) string {
	slug := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			return c
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		}
		return '-'
	}, id.component())
	slug = strings.Trim(slug[:min(len(slug), 40)], "-")
	if slug != "" {
		slug += "-"
	}
	return "limpet-manifest-" + slug + idHash(id)
}

func idHash(id fileID) string {
	sum := sha256.Sum256([]byte(id.String()))
	return hex.EncodeToString(sum[:5])
}

// configMap is the stored form.
func (r record) configMap() *applycorev1.ConfigMapApplyConfiguration {
	var lines strings.Builder
	for _, ref := range r.refs {
		lines.WriteString(ref.encode())
		lines.WriteByte('\n')
	}
	return applycorev1.ConfigMap(recordName(r.id), recordNamespace).
		WithLabels(map[string]string{manifestLabel: idHash(r.id)}).
		WithData(map[string]string{
			keyOrigin: string(r.id.origin), keyPath: r.id.path, keyChecksum: r.checksum, keyObjects: lines.String(),
		})
}

// decodeRecord reads the stored form back.
func decodeRecord(cm *corev1.ConfigMap) (record, error) {
	r := record{
		id:       fileID{origin: origin(cm.Data[keyOrigin]), path: cm.Data[keyPath]},
		checksum: cm.Data[keyChecksum],
		uid:      cm.UID,
	}
	if r.id.origin == "" || r.id.path == "" || cm.Name != recordName(r.id) {
		return record{}, fmt.Errorf("ConfigMap %s/%s has label %s but is no record of a manifest", cm.Namespace, cm.Name, manifestLabel)
	}
	for line := range strings.Lines(cm.Data[keyObjects]) {
		ref, err := decodeRef(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return record{}, fmt.Errorf("ConfigMap %s/%s: %w", cm.Namespace, cm.Name, err)
		}
		r.refs = append(r.refs, ref)
	}
	return r, nil
}
