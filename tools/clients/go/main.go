// A client of the Curator on grpc-go: MODE ADDRESS DESCRIPTORS [CA CERTIFICATE KEY NAME].
//
// What it does in each mode, and what it says, is the same for each client here: see curator-service/tests/integration/tls/clients.rs.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	limit      = 20 * time.Second
	management = "metropolis.proto.api.Management"
	curator    = "metropolis.node.core.curator.proto.api.Curator"
	local      = "metropolis.node.core.curator.proto.api.CuratorLocal"
)

type client struct {
	files *protoregistry.Files
	conn  *grpc.ClientConn
}

// A call that has begun.
type call struct {
	stream grpc.ClientStream
	answer protoreflect.MessageDescriptor
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	mode, address, secrets := os.Args[1], os.Args[2], os.Args[4:]
	set := &descriptorpb.FileDescriptorSet{}
	check(proto.Unmarshal(must(os.ReadFile(os.Args[3])), set))
	c := client{must(protodesc.NewFiles(set)), must(grpc.NewClient(address, options(secrets)...))}
	switch mode {
	case "calls":
		c.calls()
	case "plain":
		c.plain()
	case "watch":
		c.watch()
	default:
		check(fmt.Errorf("there is no mode %q", mode))
	}
}

func options(secrets []string) []grpc.DialOption {
	soon := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: 500 * time.Millisecond}
	transport := insecure.NewCredentials()
	if len(secrets) == 4 {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(must(os.ReadFile(secrets[0])))
		own := must(tls.LoadX509KeyPair(secrets[1], secrets[2]))
		transport = credentials.NewTLS(&tls.Config{
			RootCAs: roots, Certificates: []tls.Certificate{own}, ServerName: secrets[3],
		})
	}
	return []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: 5 * time.Second}),
	}
}

// Begins a call with one message, given as JSON.
func (c client) begin(ctx context.Context, service, name, request string) (call, error) {
	found := must(c.files.FindDescriptorByName(protoreflect.FullName(service)))
	method := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	message := dynamicpb.NewMessage(method.Input())
	check(protojson.Unmarshal([]byte(request), message))
	kind := &grpc.StreamDesc{ServerStreams: true, ClientStreams: method.IsStreamingClient()}
	stream, err := c.conn.NewStream(ctx, kind, "/"+service+"/"+name, grpc.WaitForReady(true))
	if err != nil {
		return call{}, err
	}
	if err := stream.SendMsg(message); err != nil && !errors.Is(err, io.EOF) {
		return call{}, err
	}
	return call{stream, method.Output()}, stream.CloseSend()
}

func (c call) next() (*dynamicpb.Message, error) {
	message := dynamicpb.NewMessage(c.answer)
	err := c.stream.RecvMsg(message)
	return message, err
}

// All that a call answers.
func (c client) all(service, name, request string) ([]*dynamicpb.Message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	begun, err := c.begin(ctx, service, name, request)
	if err != nil {
		return nil, err
	}
	var answers []*dynamicpb.Message
	for {
		answer, err := begun.next()
		if errors.Is(err, io.EOF) {
			return answers, nil
		}
		if err != nil {
			return answers, err
		}
		answers = append(answers, answer)
	}
}

// A field of a message, through others.
func field(message protoreflect.Message, path string) protoreflect.Value {
	names := strings.Split(path, ".")
	for _, name := range names[:len(names)-1] {
		message = message.Get(message.Descriptor().Fields().ByName(protoreflect.Name(name))).Message()
	}
	return message.Get(message.Descriptor().Fields().ByName(protoreflect.Name(names[len(names)-1])))
}

func (c client) calls() {
	info := must(c.all(management, "GetClusterInfo", "{}"))
	fmt.Println("cluster-info", field(info[0], "cluster_directory.nodes").List().Len())
	nodes := must(c.all(management, "GetNodes", `{"filter": "has(node.roles.consensus_member)"}`))
	fmt.Println("nodes", len(nodes))
	ticket := must(c.all(management, "GetRegisterTicket", "{}"))
	fmt.Println("ticket", len(field(ticket[0], "ticket").Bytes()))
	id := field(nodes[0], "id").String()
	change := fmt.Sprintf(`{"id": %q, "upsert": [{"key": "client", "value": "go"}]}`, id)
	must(c.all(management, "UpdateNodeLabels", change))
	fmt.Println("labelled", id)
	_, err := c.all(curator, "Heartbeat", "{}")
	fmt.Println("heartbeat", int(status.Code(err)))
}

func (c client) plain() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	leaders := must(c.begin(ctx, local, "GetCurrentLeader", "{}"))
	fmt.Println("leader", field(must(leaders.next()), "leader_node_id").String())
	_, err := c.all(management, "GetClusterInfo", "{}")
	fmt.Println("refused", int(status.Code(err)))
}

func (c client) watch() {
	for {
		fmt.Println("lost", int(status.Code(c.watched())))
		time.Sleep(100 * time.Millisecond)
	}
}

// Watches until that ends.
func (c client) watched() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events, err := c.begin(ctx, curator, "Watch", `{"nodesInCluster": {}}`)
	for err == nil {
		var event *dynamicpb.Message
		if event, err = events.next(); err != nil {
			break
		}
		nodes := field(event, "nodes").List()
		for at := range nodes.Len() {
			pairs := field(nodes.Get(at).Message(), "labels.pairs").List()
			for at := range pairs.Len() {
				if pair := pairs.Get(at).Message(); field(pair, "key").String() == "seen" {
					fmt.Println("seen", field(pair, "value").String())
				}
			}
		}
		if field(event, "progress").Enum() == 1 {
			fmt.Println("watching")
		}
	}
	return err
}
