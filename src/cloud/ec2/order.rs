//! What `RunInstances` is told (spec 42 §4).

use super::limits::{check_tags, is_reserved, user_data};
use super::options::Ec2Options;
use super::prices::volume_gib;
use super::query::Params;
use crate::cloud::{CloudError, NewInstance};
use crate::core::effect::Tags;

/// Where the added scratch volume appears; the image's boot scripts look for it there.
const SCRATCH_DEVICE: &str = "/dev/xvdt";

/// All but what is not known before a call: the key's name, and what differs between attempts (see [`attempt`]).
///
/// # Errors
/// EC2 would refuse the tags or the first boot's text.
pub(super) fn order(options: &Ec2Options, new: &NewInstance) -> Result<Params, CloudError> {
    check_tags(&new.tags)?;
    let user_data = user_data(&new.init_command)?;
    let mut params = Params::default();
    params.add("ImageId", new.image_id.as_str());
    params.add("InstanceType", new.instance_type.provider_type.as_str());
    params.add("MinCount", "1");
    params.add("MaxCount", "1");
    // With an interface of its own EC2 takes groups and subnet here only.
    params.add("NetworkInterface.1.DeviceIndex", "0");
    // We go to the private address.
    params.add("NetworkInterface.1.AssociatePublicIpAddress", "false");
    params.add("NetworkInterface.1.DeleteOnTermination", "true");
    params.list("NetworkInterface.1.SecurityGroupId", &options.security_groups);
    params.add("DisableApiTermination", "false");
    // So that a shutdown from within ends billing too.
    params.add("InstanceInitiatedShutdownBehavior", "terminate");
    params.tag_specification("instance", &new.tags);
    params.add("MetadataOptions.HttpEndpoint", "enabled");
    params.add("MetadataOptions.HttpTokens", "required");
    params.add("UserData", user_data);
    let volume_gib = volume_gib(new.instance_type.added_scratch);
    if volume_gib > 0 {
        params.add("BlockDeviceMapping.1.DeviceName", SCRATCH_DEVICE);
        params.add("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true");
        params.add("BlockDeviceMapping.1.Ebs.VolumeSize", volume_gib.to_string());
        params.add("BlockDeviceMapping.1.Ebs.VolumeType", options.volume_type());
    }
    if new.instance_type.preemptible {
        params.add("InstanceMarketOptions.MarketType", "spot");
        params.add("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate");
        // The shortest form that is the same number.
        params.add("InstanceMarketOptions.SpotOptions.MaxPrice", new.instance_type.price.to_string());
    }
    if !options.iam_profile.is_empty() {
        params.add("IamInstanceProfile.Name", options.iam_profile.as_str());
    }
    Ok(params)
}

/// One attempt at an order: in this subnet (`""`: in none), with a token of its own: one that is used again with another subnet is
/// refused.
pub(super) fn attempt(order: &Params, subnet: &str, client_token: &str) -> Params {
    let mut params = order.clone();
    if !subnet.is_empty() {
        params.add("NetworkInterface.1.SubnetId", subnet);
    }
    params.add("ClientToken", client_token);
    params
}

/// `CreateTags` of one instance. Tags that AWS set itself are left out: they are among those that were listed, and stay as they are.
/// `None`: there is nothing to set.
///
/// # Errors
/// EC2 would refuse them.
pub(super) fn create_tags(id: &str, tags: &Tags) -> Result<Option<Params>, CloudError> {
    let ours = tags.iter().filter(|(key, _)| !is_reserved(key));
    let ours: Tags = ours.map(|(key, value)| (key.clone(), value.clone())).collect();
    check_tags(&ours)?;
    if ours.is_empty() {
        return Ok(None);
    }
    let mut params = Params::default();
    params.add("ResourceId.1", id);
    params.tags("", &ours);
    Ok(Some(params))
}
