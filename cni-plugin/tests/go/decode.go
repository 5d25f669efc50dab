// SPDX-License-Identifier: Apache-2.0

// Reads a JSON list of texts and prints, for each, what Go's decoder makes of it: the fields that a CNI plugin takes from its
// standard input, declared as Go's plugins declare theirs. Where it refuses, the entry is null.
package main

import (
	"encoding/json"
	"os"
)

type dns struct {
	Nameservers []string `json:"nameservers"`
	Domain      string   `json:"domain"`
	Search      []string `json:"search"`
	Options     []string `json:"options"`
}

type attachment struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

type config struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	MTU        int    `json:"mtu"`
	DNS        dns    `json:"dns"`
	Args       struct {
		CNI struct {
			Labels []struct {
				Key   string `json:"key"`
				Value string `json:"value"`
			} `json:"labels"`
			IPs []string `json:"ips"`
			Mac string   `json:"mac"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		PortMappings []struct {
			HostPort      int    `json:"hostPort"`
			ContainerPort int    `json:"containerPort"`
			Protocol      string `json:"protocol"`
			HostIP        string `json:"hostIP"`
		} `json:"portMappings"`
		IPs []string `json:"ips"`
		Mac string   `json:"mac"`
		DNS struct {
			Servers  []string `json:"servers"`
			Searches []string `json:"searches"`
			Options  []string `json:"options"`
		} `json:"dns"`
	} `json:"runtimeConfig"`
	PrevResult map[string]interface{} `json:"prevResult"`
	Valid      []attachment           `json:"cni.dev/valid-attachments"`
}

type result struct {
	Interfaces []struct {
		Name    string `json:"name"`
		Mac     string `json:"mac"`
		Sandbox string `json:"sandbox"`
	} `json:"interfaces"`
	IPs []struct {
		Interface *int   `json:"interface"`
		Address   string `json:"address"`
		Gateway   string `json:"gateway"`
	} `json:"ips"`
	Routes []struct {
		Dst string `json:"dst"`
		GW  string `json:"gw"`
	} `json:"routes"`
}

type seen struct {
	Config config
	Result *result
}

func read(text string) *seen {
	var it seen
	if json.Unmarshal([]byte(text), &it.Config) != nil {
		return nil
	}
	if it.Config.PrevResult != nil {
		// A plugin keeps the result as a map and decodes it once it knows the version.
		written, err := json.Marshal(it.Config.PrevResult)
		if err != nil {
			return nil
		}
		it.Result = &result{}
		if json.Unmarshal(written, it.Result) != nil {
			return nil
		}
	}
	it.Config.PrevResult = nil
	return &it
}

func main() {
	var texts []string
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		panic(err)
	}
	all := make([]*seen, 0, len(texts))
	for _, text := range texts {
		all = append(all, read(text))
	}
	if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
		panic(err)
	}
}
