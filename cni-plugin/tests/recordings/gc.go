// SPDX-License-Identifier: Apache-2.0

// Calls libcni's GCNetworkList: gc FOLDER NETWORK ID:IFNAME,ID:IFNAME... Without attachments the list is an empty one, with
// "nil" it is none, as a runtime's is that has not appended to it.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

func main() {
	list, err := libcni.LoadConfList(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	valid := []types.GCAttachment{}
	for _, text := range strings.FieldsFunc(os.Args[3], func(sign rune) bool { return sign == ',' }) {
		if text == "nil" {
			valid = nil
			break
		}
		id, ifname, _ := strings.Cut(text, ":")
		valid = append(valid, types.GCAttachment{ContainerID: id, IfName: ifname})
	}
	cni := libcni.NewCNIConfig([]string{os.Getenv("CNI_PATH")}, nil)
	if err := cni.GCNetworkList(context.Background(), list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
