//! The comments of the contracts: what the generated documents say about each thing. They name fields as the contracts
//! do; the documents are about JSON, which spells them otherwise.

use std::collections::{BTreeMap, BTreeSet};

use phasegate_proto_json::pool;
use prost_reflect::{
    EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor,
};

/// Comments, by file and by the path of what they stand at.
#[derive(Debug)]
pub(crate) struct Comments(BTreeMap<String, BTreeMap<Vec<i32>, String>>);

impl Comments {
    /// Reads them from the descriptors.
    pub(crate) fn read() -> Self {
        let fields: BTreeSet<(String, String)> = pool()
            .all_messages()
            .flat_map(|message| message.fields().collect::<Vec<_>>())
            .filter(|field| field.name() != field.json_name())
            .map(|field| (field.name().to_owned(), field.json_name().to_owned()))
            .collect();
        let names: BTreeMap<String, String> = fields.into_iter().collect();
        Self(pool().files().map(|file| (file.name().to_owned(), of_file(&file, &names))).collect())
    }

    pub(crate) fn of_service(&self, service: &ServiceDescriptor) -> &str {
        self.at(&service.parent_file(), service.path())
    }

    pub(crate) fn of_method(&self, method: &MethodDescriptor) -> &str {
        self.at(&method.parent_file(), method.path())
    }

    pub(crate) fn of_message(&self, message: &MessageDescriptor) -> &str {
        self.at(&message.parent_file(), message.path())
    }

    pub(crate) fn of_field(&self, field: &FieldDescriptor) -> &str {
        self.at(&field.parent_file(), field.path())
    }

    pub(crate) fn of_enum(&self, descriptor: &EnumDescriptor) -> &str {
        self.at(&descriptor.parent_file(), descriptor.path())
    }

    pub(crate) fn of_enum_value(&self, value: &EnumValueDescriptor) -> &str {
        self.at(&value.parent_file(), value.path())
    }

    fn at(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.0.get(file.name()).and_then(|comments| comments.get(path)).map_or("", String::as_str)
    }
}

fn of_file(file: &FileDescriptor, names: &BTreeMap<String, String>) -> BTreeMap<Vec<i32>, String> {
    let locations =
        file.file_descriptor_proto().source_code_info.as_ref().map(|info| info.location.as_slice());
    let commented =
        locations.unwrap_or_default().iter().filter(|location| !location.leading_comments().is_empty());
    commented
        .map(|location| (location.path.clone(), in_json(&paragraphs(location.leading_comments()), names)))
        .collect()
}

/// Joins the lines of each paragraph, which are broken where the source is.
fn paragraphs(comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines().map(str::trim) {
        if line.is_empty() {
            if !text.is_empty() && !text.ends_with("\n\n") {
                text.push_str("\n\n");
            }
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text.trim_end().to_owned()
}

/// Spells the fields that stand between backticks as JSON does.
fn in_json(text: &str, names: &BTreeMap<String, String>) -> String {
    let pieces = text.split('`').enumerate().map(|(index, piece)| {
        let name = names.get(piece).filter(|_| index % 2 == 1);
        name.map_or(piece, String::as_str)
    });
    pieces.collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_spelled_as_in_json() {
        let comments = Comments::read();
        let service = pool().get_service_by_name("phasegate.instance.v1.InstanceService").unwrap();
        let start = service.methods().find(|method| method.name() == "StartInstance").unwrap();
        assert!(comments.of_method(&start).contains("from `externalParticipants` or"));
        assert_eq!(paragraphs(" One\n line.\n\n\n Two.\n"), "One line.\n\nTwo.");
        assert_eq!(comments.of_service(&service), "Running processes.");
    }
}
