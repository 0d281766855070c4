package containerd

import (
	"context"
	"errors"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// client is a connection to the socket, for containerd's own services and for
// its CRI service.
type client struct {
	*containerd.Client
	conn grpc.ClientConnInterface
}

func dial(address string) (*client, error) {
	c, err := containerd.New(address, containerd.WithDefaultNamespace(Namespace))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	conn, ok := c.Conn().(grpc.ClientConnInterface)
	if !ok {
		return nil, errors.Join(fmt.Errorf("connect to containerd: a connection of type %T", c.Conn()), c.Close())
	}
	return &client{Client: c, conn: conn}, nil
}

// check asks the CRI service what the kubelet asks first.
func (c *client) check(ctx context.Context) error {
	service := runtimeapi.NewRuntimeServiceClient(c.conn)
	if _, err := service.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return fmt.Errorf("containerd's CRI service: %w", err)
	}
	status, err := service.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("containerd's CRI service: %w", err)
	}
	for _, condition := range status.GetStatus().GetConditions() {
		if condition.GetType() == runtimeapi.RuntimeReady && !condition.GetStatus() {
			return fmt.Errorf("containerd's CRI service is not ready: %s: %s", condition.GetReason(), condition.GetMessage())
		}
	}
	return nil
}

// pull gets an image as the kubelet does, with the registries' settings.
func (c *client) pull(ctx context.Context, ref string) error {
	_, err := runtimeapi.NewImageServiceClient(c.conn).PullImage(ctx,
		&runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	return err
}
