//! The `Curator` service, for nodes.

use std::pin::Pin;

use curator_proto::curator_api::curator_server::Curator;
use curator_proto::curator_api::{
    CommitNodeRequest, CommitNodeResponse, GetConsensusStatusRequest, GetConsensusStatusResponse, HeartbeatRequest,
    HeartbeatResponse, IssueCertificateRequest, IssueCertificateResponse, JoinNodeRequest, JoinNodeResponse,
    RegisterNodeRequest, RegisterNodeResponse, UpdateNodeClusterNetworkingRequest, UpdateNodeClusterNetworkingResponse,
    UpdateNodeStatusRequest, UpdateNodeStatusResponse, WatchEvent, WatchRequest,
};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::auth::caller;
use crate::leader::nodes::lookup::to_stranger;
use crate::leader::{LeaderHandle, calling_address, calling_key, calling_node};

type Heartbeats = Pin<Box<dyn Stream<Item = Result<HeartbeatResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Curator for LeaderHandle {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;
    type HeartbeatStream = Heartbeats;

    /// Serves calls within the process; `SharedWatch` serves calls from the network.
    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?.clone();
        let events = self.leader().watch(&caller, request.into_inner()).await?;
        let decoded = events.map(|event| event.and_then(|event| event.decoded()));
        Ok(Response::new(Box::pin(decoded)))
    }

    async fn update_node_status(
        &self,
        request: Request<UpdateNodeStatusRequest>,
    ) -> Result<Response<UpdateNodeStatusResponse>, Status> {
        let node = calling_node(&request)?;
        let done = self.leader().report_node_status(&node, request.into_inner()).await;
        done.map(Response::new)
    }

    async fn heartbeat(&self, request: Request<Streaming<HeartbeatRequest>>) -> Result<Response<Heartbeats>, Status> {
        let node = calling_node(&request)?;
        let leader = self.leader().clone();
        let heartbeats = request.into_inner().map(move |heartbeat| {
            heartbeat.map(|HeartbeatRequest {}| {
                leader.heartbeats.heard(&node);
                HeartbeatResponse {}
            })
        });
        Ok(Response::new(Box::pin(heartbeats)))
    }

    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        let key = calling_key(&request)?;
        let from = calling_address(&request);
        let done = self.leader().register_node_from(from, key, request.into_inner()).await;
        done.map(Response::new).map_err(to_stranger)
    }

    async fn commit_node(&self, request: Request<CommitNodeRequest>) -> Result<Response<CommitNodeResponse>, Status> {
        let key = calling_key(&request)?;
        let done = self.leader().commit_node(key, request.into_inner()).await;
        done.map(Response::new).map_err(to_stranger)
    }

    async fn join_node(&self, request: Request<JoinNodeRequest>) -> Result<Response<JoinNodeResponse>, Status> {
        let key = calling_key(&request)?;
        let done = self.leader().join_node(key, request.into_inner()).await;
        done.map(Response::new).map_err(to_stranger)
    }

    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let node = calling_node(&request)?;
        let done = self.leader().issue_certificate(&node, request.into_inner()).await;
        done.map(Response::new)
    }

    async fn update_node_cluster_networking(
        &self,
        request: Request<UpdateNodeClusterNetworkingRequest>,
    ) -> Result<Response<UpdateNodeClusterNetworkingResponse>, Status> {
        let node = calling_node(&request)?;
        let leader = self.leader();
        let done = leader.change_node_cluster_networking(&node, request.into_inner()).await;
        done.map(Response::new)
    }

    async fn get_consensus_status(
        &self,
        request: Request<GetConsensusStatusRequest>,
    ) -> Result<Response<GetConsensusStatusResponse>, Status> {
        let done = self.leader().get_consensus_status(request.into_inner()).await;
        done.map(Response::new)
    }
}
