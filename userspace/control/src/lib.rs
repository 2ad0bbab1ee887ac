//! Peers and tunnels: IKE, the gate and policy composed, sans-IO.
