//! An account with a proxy before it, and calls as a program would make them.

use std::sync::Arc;

use muster_ec2_cloud::{ApiError, Ec2Proxy, Element, Moto};

pub(crate) struct Account {
    // Dropped in this order.
    pub(crate) proxy: Ec2Proxy,
    pub(crate) moto: Arc<Moto>,
    pub(crate) subnets: [String; 2],
    pub(crate) image: String,
}

impl Account {
    pub(crate) fn new() -> Self {
        let moto = Arc::new(Moto::start().expect("starts"));
        let vpc = moto.create_vpc("127.200.0.0/16");
        let subnets =
            [moto.create_subnet(&vpc, "127.200.1.0/24", 'a'), moto.create_subnet(&vpc, "127.200.2.0/24", 'b')];
        let image = moto.create_image("image");
        Self { proxy: Ec2Proxy::start(&moto).expect("starts"), moto, subnets, image }
    }

    /// A create by way of the proxy, in the first subnet; gives the instance's id.
    pub(crate) fn run(&self, more: &[(&str, &str)]) -> Result<String, ApiError> {
        let mut parameters = vec![
            ("ImageId", self.image.as_str()),
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("NetworkInterface.1.DeviceIndex", "0"),
        ];
        let given = |name: &str| more.iter().any(|(other, _)| *other == name);
        if !given("InstanceType") {
            parameters.push(("InstanceType", "t3.small"));
        }
        if !given("NetworkInterface.1.SubnetId") {
            parameters.push(("NetworkInterface.1.SubnetId", &self.subnets[0]));
        }
        parameters.extend(more);
        let root = self.proxy.call("RunInstances", &parameters)?;
        Ok(root.list("instancesSet")[0].at("instanceId").expect("an id").to_owned())
    }

    /// The ids on one page of a list, and the token for the next.
    pub(crate) fn page(&self, token: Option<&str>) -> (Vec<String>, Option<Element>) {
        let parameters: Vec<_> = token.iter().map(|token| ("NextToken", *token)).collect();
        let root = self.proxy.call("DescribeInstances", &parameters).expect("listed");
        let items = root.list("reservationSet").iter().flat_map(|reservation| reservation.list("instancesSet"));
        let ids = items.map(|item| item.at("instanceId").expect("an id").to_owned()).collect();
        (ids, root.child("nextToken").cloned())
    }

    /// The ids in a list that fits on a page.
    pub(crate) fn list(&self) -> Vec<String> {
        self.page(None).0
    }
}
