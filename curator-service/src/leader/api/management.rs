//! The `Management` service, for operators.

use curator_proto::management_api::management_server::Management;
use curator_proto::management_api::{
    ApproveNodeRequest, ApproveNodeResponse, ConfigureClusterRequest, ConfigureClusterResponse,
    DecommissionNodeRequest, DecommissionNodeResponse, DeleteNodeRequest, DeleteNodeResponse, GetClusterInfoRequest,
    GetClusterInfoResponse, GetNodesRequest, GetRegisterTicketRequest, GetRegisterTicketResponse,
    UpdateNodeLabelsRequest, UpdateNodeLabelsResponse, UpdateNodeRolesRequest, UpdateNodeRolesResponse,
};
use tonic::{Request, Response, Status};

use crate::audit::Entry;
use crate::auth::caller;
use crate::leader::LeaderHandle;
use crate::leader::nodes::list::Nodes;

/// Implements unary methods with the leader's methods of the same names; the `audited` ones are written to the audit
/// log.
macro_rules! unary {
    (
        plain { $($method:ident($request:ident) -> $response:ident;)* }
        audited { $($audited:ident($audited_request:ident) -> $audited_response:ident;)* }
    ) => {
        #[tonic::async_trait]
        impl Management for LeaderHandle {
            type GetNodesStream = Nodes;

            async fn get_nodes(&self, request: Request<GetNodesRequest>) -> Result<Response<Nodes>, Status> {
                let caller = caller(&request)?.clone();
                let nodes = self.leader().get_nodes(&caller, request.into_inner()).await;
                nodes.map(Response::new)
            }

            $(async fn $method(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let done = self.leader().$method(request.into_inner()).await;
                done.map(Response::new)
            })*

            $(async fn $audited(
                &self,
                request: Request<$audited_request>,
            ) -> Result<Response<$audited_response>, Status> {
                let entry = Entry::of(&request);
                let done = self.leader().$audited(request.into_inner()).await;
                entry.close(&done);
                done.map(Response::new)
            })*
        }
    };
}

unary! {
    plain {
        get_cluster_info(GetClusterInfoRequest) -> GetClusterInfoResponse;
    }
    audited {
        get_register_ticket(GetRegisterTicketRequest) -> GetRegisterTicketResponse;
        approve_node(ApproveNodeRequest) -> ApproveNodeResponse;
        update_node_roles(UpdateNodeRolesRequest) -> UpdateNodeRolesResponse;
        decommission_node(DecommissionNodeRequest) -> DecommissionNodeResponse;
        delete_node(DeleteNodeRequest) -> DeleteNodeResponse;
        update_node_labels(UpdateNodeLabelsRequest) -> UpdateNodeLabelsResponse;
        configure_cluster(ConfigureClusterRequest) -> ConfigureClusterResponse;
    }
}
