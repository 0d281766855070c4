package agent

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// clientConfig reads one of the kubeconfigs that limpet writes. Unlike
// clientcmd it does not ask for the certificate that it names: that is obtained
// after the components have been put together, on the first start.
func clientConfig(kubeconfig string) (*rest.Config, error) {
	loaded, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	current := loaded.Contexts[loaded.CurrentContext]
	if current == nil || loaded.Clusters[current.Cluster] == nil || loaded.AuthInfos[current.AuthInfo] == nil {
		return nil, fmt.Errorf("read kubeconfig: %s has no current context", kubeconfig)
	}
	cluster, auth := loaded.Clusters[current.Cluster], loaded.AuthInfos[current.AuthInfo]
	return &rest.Config{
		Host:            cluster.Server,
		TLSClientConfig: rest.TLSClientConfig{CAFile: cluster.CertificateAuthority, CertFile: auth.ClientCertificate, KeyFile: auth.ClientKey},
	}, nil
}
